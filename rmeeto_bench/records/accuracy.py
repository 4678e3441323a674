"""What an accuracy pass leaves behind: records that `bench` makes and `report` draws. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rmeeto_bench.records.run import Estimate

SCHEMA = "rmeeto-bench-accuracy/1"


@dataclass(frozen=True)
class ArmAccuracy:
    """One arm. `top1`, `top5`, `agreement` (same first class as the baseline) and `calibration_error` are percent,
    `delta_top1` percentage points over the baseline, paired by image. `p_value`: McNemar's mid-p that both are equally
    accurate, `p_holm` the same adjusted for the number of ratios of the model."""

    arm: str
    model: str
    r: int
    ratio_requested: float
    reduction_ratio: float
    weights: str
    checkpoint: str | None
    checkpoint_sha256: str | None
    images: int
    correct: int
    top1: Estimate
    top5: Estimate
    calibration_error: float
    delta_top1: Estimate | None = None
    p_value: float | None = None
    p_holm: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class ClassChange:
    """One class at one ratio: of `images`, how many the baseline and the arm got right; `delta` in percentage points.

    `shrunk`: the change as all classes together suggest it. The extremes among many classes are mostly luck; this estimate
    and its interval hold for those that are picked, too.
    """

    arm: str
    label: int
    images: int
    baseline_correct: int
    correct: int
    delta: Estimate
    shrunk: Estimate


@dataclass(frozen=True)
class DataProblem:
    """Something wrong with the data: `skipped` images count nowhere, others were read as `reason` says."""

    path: str
    reason: str
    skipped: bool


@dataclass(frozen=True)
class DataSummary:
    """The images behind the accuracies: `images` of the set (or the part asked for), `evaluated` those in every number."""

    name: str
    fingerprint: str
    images: int
    evaluated: int
    classes: int
    problems: tuple[DataProblem, ...] = ()


@dataclass(frozen=True)
class AccuracyRecord:
    """One evaluation. `data` by the models that share it (names with commas). `status`: complete or interrupted."""

    created_utc: str
    tool_version: str
    argv: tuple[str, ...]
    plan: dict[str, Any]
    environment: dict[str, Any]
    devices: tuple[str, ...]
    status: str
    arms: tuple[ArmAccuracy, ...]
    data: dict[str, DataSummary]
    hints: tuple[str, ...] = ()
    classes: tuple[ClassChange, ...] = field(default=(), repr=False)
    schema: str = SCHEMA


def to_json(record: AccuracyRecord) -> str:
    """As text, without the table of classes (it has a file of its own)."""
    value = asdict(record)
    del value["classes"]
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
