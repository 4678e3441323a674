"""From raw blocks and predictions to the row of an arm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench import reference
from rmeeto_bench.bench.arms import BuiltArm, Setting
from rmeeto_bench.bench.plan import Cell
from rmeeto_bench.measure.rounds import RoundsResult
from rmeeto_bench.measure.statistics import paired_delta, paired_speedup, rate, wilson
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS, REMEDIES
from rmeeto_bench.models.flops import CONVENTIONS, count_flops, published_gflops
from rmeeto_bench.models.zoo import config
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.records import Arm, Estimate
from rmeeto_bench.reduction.schedule import token_counts


@dataclass(frozen=True)
class Measured:
    """What was measured of all arms of a model on a device: seconds per image by round, best classes [n, 5] by image,
    labels [n] of the images done (None: no accuracy pass), and the verdict on the rounds."""

    rounds: dict[str, list[float]]
    predictions: dict[str, NDArray[np.int16]]
    labels: NDArray[np.int64] | None
    verdict: str
    result: RoundsResult
    baseline: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", next(iter(self.rounds)))

    def correct(self, arm: str) -> NDArray[np.bool_] | None:
        """Whether each image's first class is right, or None without an accuracy pass."""
        if self.labels is None or len(self.labels) == 0:
            return None
        best = self.predictions[arm][: len(self.labels), 0]
        return best == self.labels if len(best) == len(self.labels) else None


def _gflops(cell: Cell) -> dict[str, float]:
    sized = config(cell.model)
    values = {"paper": published_gflops(sized, cell.reduction)}
    for convention in CONVENTIONS:
        count = count_flops(sized, cell.reduction, convention)
        values[convention], values[f"{convention}_without_matching"] = count.total, count.layers
    return values


def _paper(cell: Cell, setting: Setting) -> dict[str, float] | None:
    """Table 12's values where this is one of its GPUs and models; they are fp16 at batch 128."""
    if setting.device.kind != "cuda":
        return None
    profile = match_profile(setting.device.name, setting.device.details().get("memory_gib"))
    if profile is None or not profile.paper_column:
        return None
    found = reference.throughput(cell.model, profile.paper_column, cell.r)
    top1 = reference.top1(cell.model, cell.r)
    return None if found is None else {**found, **({} if top1 is None else {"top1": top1})}


def _base(cell: Cell, setting: Setting) -> Arm:
    """The row of a cell before anything is known but its settings and schedule."""
    sized = config(cell.model)
    counts = token_counts(cell.reduction, depth=sized.depth, initial_tokens=sized.num_tokens)
    return Arm(
        device=setting.device.id,
        arm=cell.name,
        model=cell.model,
        r=cell.r,
        ratio_requested=cell.ratio_requested,
        reduction_ratio=cell.reduction_ratio,
        token_counts=counts,
        final_tokens=counts[-1],
        precision=setting.precision,
        backend=setting.backend,
        batch_size=setting.batch_size,
        weights="random",
        gflops=_gflops(cell),
        paper=_paper(cell, setting),
    )


def failed_arm(cell: Cell, setting: Setting, verdict: str) -> Arm:
    """The row of an arm that could not be measured."""
    return replace(_base(cell, setting), verdict=verdict, verdict_detail=REMEDIES[verdict])


def _speedup(times: list[float], measured: Measured, *, is_baseline: bool) -> Estimate:
    return Estimate(1.0) if is_baseline else paired_speedup(measured.rounds[measured.baseline], times)


def arm_record(arm: BuiltArm, setting: Setting, measured: Measured) -> Arm:
    """The row of a measured arm. Intervals are 95 %; the speed-up is paired within rounds, the accuracy by image."""
    name = arm.cell.name
    times = measured.rounds[name]
    verdict = measured.verdict
    if len(times) < FEWEST_ROUNDS and verdict != "INTERRUPTED":
        verdict = "NOT_MEASURED"
    if arm.model.token_counts() != arm.model.planned_token_counts():
        verdict = "TOKENS_MISMATCH"
    enough = len(times) >= FEWEST_ROUNDS
    is_baseline = name == measured.baseline
    correct, reference_correct = measured.correct(name), measured.correct(measured.baseline)
    top5 = None
    if correct is not None and measured.labels is not None:
        hits = (measured.predictions[name][: len(correct)] == measured.labels[:, None]).any(1)
        top5 = wilson(int(hits.sum()), len(hits))
    delta: Estimate | None = None
    if correct is not None and reference_correct is not None and not is_baseline:
        delta = paired_delta(reference_correct, correct)
    provenance = arm.provenance
    return replace(
        _base(arm.cell, setting),
        backend=arm.model.kernels.name,
        labels=arm.labels(),
        token_counts=arm.model.token_counts(),
        final_tokens=arm.model.token_counts()[-1],
        weights=arm.weights,
        checkpoint=None if provenance is None else provenance.path.name,
        checkpoint_sha256=None if provenance is None else provenance.sha256,
        images_per_second=rate(times) if enough else None,
        speedup=_speedup(times, measured, is_baseline=is_baseline) if enough else None,
        top1=None if correct is None else wilson(int(correct.sum()), len(correct)),
        top5=top5,
        delta_top1=delta,
        n_images=0 if correct is None else len(correct),
        rounds=len(times),
        verdict=verdict,
        verdict_detail=REMEDIES[verdict],
    )
