"""The difference of two stored runs in top-1, paired by image where both kept their predictions on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.statistics import paired_delta
from rmeeto_bench.records.run import Arm, Estimate


def _answers(folder: Path, arm: Arm) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """(labels, whether each image was right) of an arm, or None if the run kept none."""
    try:
        with Store.open(folder) as store:
            labels = store.labels(arm.device, arm.model) if store.version > 1 else None
            if labels is None or not len(labels):
                return None
            best = store.predictions(arm.device, arm.arm)[:, 0]
    except DataError:
        return None
    return (labels, best[: len(labels)] == labels) if len(best) >= len(labels) else None


def paired_top1(base: tuple[Path, Arm], head: tuple[Path, Arm], level: float = 0.95) -> Estimate | None:
    """Points of top-1 of the head's arm over the base's, or None where they are not about the same images in order."""
    first, second = _answers(*base), _answers(*head)
    if first is None or second is None or not np.array_equal(first[0], second[0]):
        return None
    return paired_delta(first[1], second[1], level)
