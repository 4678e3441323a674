"""The classes that pay for merging: the change of each in top-1, from the predictions in a store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from rmeeto_bench.bench.store.predictions import Predictions, Results
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.measure.statistics import paired_delta
from rmeeto_bench.records.run import ClassChange, Estimate, RunRecord

FEWEST = 3.0  # images whose answer may have changed though none of them did, at 95 %: the rule of three


def shrunk_changes(gained: ArrayLike, lost: ArrayLike, images: ArrayLike, level: float = 0.95) -> list[Estimate]:
    """The change of every class in percentage points, shrunk towards the mean change of all (empirical Bayes).

    Classes are taken to differ truly by a normal spread, which is estimated from how much more they differ than their
    images explain (DerSimonian and Laird 1986). Where they do not, all get the mean.
    """
    plus, minus, count = (np.asarray(x, float) for x in (gained, lost, images))
    change = (plus - minus) / count
    share = (plus + minus).sum() / count.sum()  # of images whose answer changed: a class's own share would favour its value
    noise = np.maximum(share, FEWEST / count.sum()) / count
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


def all_class_changes(store: Store, record: RunRecord) -> Iterator[ClassChange]:
    """Those of every merged arm of a run. A model that several devices evaluated is the first one's."""
    for model in dict.fromkeys(arm.model for arm in record.arms):
        device = next((arm.device for arm in record.arms if arm.model == model and arm.top1), None)
        if device is None:
            continue
        names = [arm.arm for arm in record.arms if (arm.device, arm.model) == (device, model) and arm.top1]
        results = Predictions(store, device).results(names)
        baseline = f"{model}/r0"
        if len(results.labels) and baseline in results.best:
            for arm in names:
                if arm != baseline:
                    yield from class_changes(results, baseline, arm)
