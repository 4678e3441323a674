"""From predictions to the comparison of arms: accuracies, paired differences, and the classes that pay for merging."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.session.built_arm import BuiltArm
from rmeeto_bench.bench.store.predictions import Results
from rmeeto_bench.checkpoints.reader import Provenance
from rmeeto_bench.checkpoints.trained import in_words
from rmeeto_bench.measure.statistics import holm, mcnemar, paired_delta, wilson
from rmeeto_bench.records.accuracy import ArmAccuracy, ClassChange
from rmeeto_bench.records.run import Estimate

BINS = 15


@dataclass(frozen=True)
class Described:
    """What a table says of an arm besides its numbers."""

    cell: Cell
    weights: str
    provenance: Provenance | None
    known_by: str


def described(arm: BuiltArm) -> Described:
    """An arm without its model, as it crosses from one process to another."""
    return Described(arm.cell, arm.weights, arm.provenance, arm.known_by)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error in percentage points: the mean gap between how sure and how right, over bins of equal
    width of the first class's probability, weighted by their images (Guo et al. 2017). 0 for no images."""
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if len(sure) == 0:
        return 0.0
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - sure, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(sure))


def implied_interval(images: int, top1: float = 80.0) -> Estimate:
    """The 95 % interval that an accuracy of `top1` percent has when it is measured on this many images."""
    return wilson(round(images * top1 / 100), images)


def shrunk_changes(gained: ArrayLike, lost: ArrayLike, images: ArrayLike, level: float = 0.95) -> list[Estimate]:
    """The change of every class in percentage points, shrunk towards the mean change of all (empirical Bayes).

    Classes are taken to differ truly by a normal spread, which is estimated from how much more they differ than their
    images explain (DerSimonian and Laird 1986). Where they do not, all get the mean.
    """
    plus, minus, count = (np.asarray(x, float) for x in (gained, lost, images))
    change = (plus - minus) / count
    share = (plus + minus).sum() / count.sum()  # of images whose answer changed: a class's own share would favour its value
    noise = np.maximum(share, 1e-12) / count
    weight = 1 / noise
    mean = float((weight * change).sum() / weight.sum())
    excess = float((weight * (change - mean) ** 2).sum()) - (len(change) - 1)
    spread = max(0.0, excess / float(weight.sum() - (weight**2).sum() / weight.sum())) if len(change) > 1 else 0.0
    weight = 1 / (noise + spread)
    mean, error = float((weight * change).sum() / weight.sum()), float(1 / weight.sum())
    keep = spread / (spread + noise)
    value = mean + keep * (change - mean)
    half = float(ndtri((1 + level) / 2)) * np.sqrt(keep * noise + (1 - keep) ** 2 * error)
    ends = zip(value, np.maximum(value - half, -1), np.minimum(value + half, 1), strict=True)
    return [Estimate(100 * float(v), 100 * float(low), 100 * float(high)) for v, low, high in ends]


def class_changes(results: Results, baseline: str, arm: str) -> list[ClassChange]:
    """The change in every class that has images, those that lose most first, by the shrunk change."""
    before, after = results.correct(baseline), results.correct(arm)
    labels = np.unique(results.labels).tolist()
    owns = [results.labels == label for label in labels]
    gained, lost = ([int((first & ~second)[own].sum()) for own in owns] for first, second in ((after, before), (before, after)))
    shrunk = shrunk_changes(gained, lost, [int(own.sum()) for own in owns])
    found = []
    for label, own, change in zip(labels, owns, shrunk, strict=True):
        delta = paired_delta(before[own], after[own])
        found.append(ClassChange(arm, label, int(own.sum()), int(before[own].sum()), int(after[own].sum()), delta, change))
    return sorted(found, key=lambda change: (change.shrunk.value, change.label))


def _arm(built: Described, results: Results, baseline: str | None) -> ArmAccuracy:
    name, cell = built.cell.name, built.cell
    correct = results.correct(name)
    count = len(correct)
    top5 = int((results.best[name] == results.labels[:, None]).any(1).sum())
    provenance = built.provenance
    row = ArmAccuracy(
        arm=name,
        model=cell.model,
        r=cell.r,
        ratio_requested=cell.ratio_requested,
        reduction_ratio=cell.reduction_ratio,
        weights=built.weights,
        checkpoint=None if provenance is None else provenance.path.name,
        checkpoint_sha256=None if provenance is None else provenance.sha256,
        known_by=built.known_by,
        averaged=provenance is not None and provenance.averaged,
        reduction=in_words(cell.reduction),
        images=count,
        correct=int(correct.sum()),
        top1=wilson(int(correct.sum()), count),
        top5=wilson(top5, count),
        calibration_error=calibration_error(results.confidence[name], correct),
    )
    if baseline is None or name == baseline:
        return row
    before = results.correct(baseline)
    return replace(
        row,
        delta_top1=paired_delta(before, correct),
        p_value=mcnemar(before, correct),
        agreement=100 * float((results.best[name][:, 0] == results.best[baseline][:, 0]).mean()),
    )


def compare(built: list[Described], results: Results) -> tuple[list[ArmAccuracy], list[ClassChange]]:
    """The rows of the arms, each against the unmerged arm of its model, and the changes by class. None without images."""
    if len(results.labels) == 0:
        return [], []
    rows: list[ArmAccuracy] = []
    changes: list[ClassChange] = []
    for model in dict.fromkeys(arm.cell.model for arm in built):
        own = [arm for arm in built if arm.cell.model == model]
        baseline = next((arm.cell.name for arm in own if arm.cell.r == 0), None)
        found = [_arm(arm, results, baseline) for arm in own]
        adjusted = iter(holm([row.p_value for row in found if row.p_value is not None]))
        rows += [row if row.p_value is None else replace(row, p_holm=next(adjusted)) for row in found]
        if baseline is not None:
            for arm in own:
                if arm.cell.name != baseline:
                    changes += class_changes(results, baseline, arm.cell.name)
    return rows, changes
