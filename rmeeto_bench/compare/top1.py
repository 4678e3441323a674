"""The difference of two stored runs in top-1, paired by image where both kept their predictions on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.measure.statistics import paired_delta
from rmeeto_bench.records.run import Arm, Estimate


@dataclass(frozen=True)
class _Answers:
    """What an arm said about its images."""

    labels: NDArray[np.int64]  # [n], of the images that could be read
    correct: NDArray[np.bool_]  # [n]
    images: bytes  # the digests of all images in order, those that could not be read included


def _answers(store: Store | None, arm: Arm) -> _Answers | None:
    """The answers of an arm, or None if the run kept none. `store`: None where the run's database was not kept."""
    labels = None if store is None else store.labels(arm.device, arm.model)
    if store is None or labels is None or not len(labels):
        return None
    best = store.predictions(arm.device, arm.arm)[:, 0]
    images = store.image_digests(arm.device, arm.arm)
    return _Answers(labels, best[: len(labels)] == labels, images) if len(best) >= len(labels) else None


def paired_top1(
    base: tuple[Store | None, Arm], head: tuple[Store | None, Arm], level: float = 0.95
) -> tuple[Estimate | None, str]:
    """Points of top-1 of the head's arm over the base's and how they were found; None where it is not of the same images in
    the same order, and why."""
    first, second = _answers(*base), _answers(*head)
    if first is None or second is None:
        return None, "not paired: predictions not kept"
    if first.images != second.images or not np.array_equal(first.labels, second.labels):
        return None, "not paired: the images differ"
    return paired_delta(first.correct, second.correct, level), "paired by image"
