"""The record of an accuracy pass, which `bench` makes and `report` draws. Imports only the standard library."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rmeeto_bench.records.run import Estimate

SCHEMA = "rmeeto-bench-accuracy/1"


@dataclass(frozen=True)
class ArmAccuracy:
    """The accuracy of one arm."""

    arm: str  # name of the arm
    model: str  # name of the model
    r: int  # tokens that each merge removes
    ratio_requested: float  # reduction ratio that the user asked for
    reduction_ratio: float  # reached with this r
    weights: str  # retrained, training-free or baseline, as in `records.run.Arm`
    checkpoint: str | None  # file name of the weights
    checkpoint_sha256: str | None  # of that file
    images: int  # classified by the arm
    correct: int  # images of which the first class is right
    top1: Estimate  # percent
    top5: Estimate  # percent
    calibration_error: float  # expected calibration error in percentage points
    delta_top1: Estimate | None = None  # percentage points over the r = 0 arm, paired by image
    p_value: float | None = None  # McNemar's mid-p of the hypothesis that both arms are equally accurate
    p_holm: float | None = None  # the same, adjusted for the number of ratios of the model
    agreement: float | None = None  # percent of the images with the same first class as the r = 0 arm
    known_by: str = ""  # what says how the weights were trained: catalogue, metadata, arguments, file name or unknown
    averaged: bool = False  # whether the weights are an average over the training (EMA, SWA)
    reduction: str = ""  # the whole reduction in words, as in "r = 11, prune"


@dataclass(frozen=True)
class ClassChange:
    """The change of one class in one arm. The extremes among many classes are mostly luck; `shrunk` holds for them, too."""

    arm: str  # name of the arm
    label: int  # class number
    images: int  # of this class
    baseline_correct: int  # images that the r = 0 arm got right
    correct: int  # images that this arm got right
    delta: Estimate  # percentage points over the r = 0 arm, paired by image
    shrunk: Estimate  # the same as all classes together suggest it


@dataclass(frozen=True)
class DataProblem:
    """Something wrong with the data."""

    path: str  # file, and the member in it
    reason: str  # what is wrong, or how the image was read
    skipped: bool  # the image was left out of every number; if not, it was read as `reason` says


@dataclass(frozen=True)
class DataSummary:
    """The images behind the accuracies."""

    name: str  # of the data set
    fingerprint: str  # 16 hex digits that stand for images, labels and preprocessing
    images: int  # of the set, or of the part that was asked for
    evaluated: int  # images that are in every number
    classes: int  # of the data set
    problems: tuple[DataProblem, ...] = ()  # found while listing or reading


@dataclass(frozen=True)
class AccuracyRecord:
    """One evaluation."""

    created_utc: str  # end of the evaluation, as YYYY-MM-DDTHH:MM:SSZ
    tool_version: str  # version of this package
    argv: tuple[str, ...]  # words of the command line
    plan: dict[str, Any]  # every setting of the evaluation as plain values
    environment: dict[str, Any]  # host, Python, packages, driver, commit, ...
    devices: tuple[str, ...]  # names of the devices
    status: str  # complete or interrupted
    arms: tuple[ArmAccuracy, ...]  # results
    data: dict[str, DataSummary]  # models that share the images (names joined with commas) -> the images
    hints: tuple[str, ...] = ()  # warnings that the labels may not belong to the images
    # changes of single classes; they are written to a file of their own
    classes: tuple[ClassChange, ...] = field(default=(), repr=False)
    schema: str = SCHEMA  # version of this format


def to_json(record: AccuracyRecord) -> str:
    """The record as JSON, without the table of classes (it has a file of its own)."""
    value = asdict(record)
    del value["classes"]
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
