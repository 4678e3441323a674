"""The difference of two stored runs in top-1, paired by image where both kept their predictions on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.measure.statistics import paired_delta, paired_p_value
from rmeeto_bench.records.run import Arm, Estimate

OTHER_IMAGES = "not judged: the images differ"
TYPICAL_CHANGE = 0.01  # share of answers that a change of kernels or precision changes, where nothing is known yet


@dataclass(frozen=True)
class PairedAnswers:
    """How the answers of two programs to the same images differ. Points of top-1 of the head over the base."""

    before: NDArray[np.bool_]  # [n], whether the base had each image right
    after: NDArray[np.bool_]  # [n], the same of the head
    changed: int  # images that got another class

    @property
    def value(self) -> float:
        """The difference in points."""
        return 100 * (float(self.after.mean()) - float(self.before.mean()))

    @property
    def error(self) -> float:
        """The standard error in points. 0 where every image got the same class: then the programs do not differ on them."""
        if not self.changed:
            return 0.0
        unlike = max(1, int((self.before != self.after).sum()))
        return 100 * math.sqrt(unlike) / len(self.before)

    def estimate(self, level: float) -> Estimate:
        """The difference with a two-sided interval."""
        return paired_delta(self.before, self.after, level) if self.changed else Estimate(0.0, 0.0, 0.0)

    def p_worse(self, margin: float) -> float:
        """Of the hypothesis that the head loses no more than `margin` points."""
        if not self.changed:
            return 1.0 if margin >= 0 else 0.0
        gained, lost = int((self.after & ~self.before).sum()), int((self.before & ~self.after).sum())
        return paired_p_value(gained, lost, len(self.before), -margin / 100)

    def p_different(self) -> float:
        """Two-sided, of the hypothesis that there is no difference."""
        worse = self.p_worse(0.0)
        return 2 * min(worse, 1 - worse) if self.changed else 1.0

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The two one-sided bounds in points."""
        found = self.estimate(1 - 2 * alpha)
        assert found.low is not None
        assert found.high is not None
        return found.low, found.high


def images_needed(margin: float, changed: float = TYPICAL_CHANGE, *, alpha: float = 0.05, power: float = 0.9) -> int:
    """How many images show with this power that a loss of two margins is more than one, at a one-sided level of `alpha`.

    They show the more easily that a program without any loss does not lose two. `margin`: in points. `changed`: the share of
    images that become right or wrong.
    """
    quantiles = float(ndtri(1 - alpha) + ndtri(power))
    return math.ceil(changed * (quantiles / (margin / 100)) ** 2)


@dataclass(frozen=True)
class _Answers:
    """What an arm said about its images."""

    labels: NDArray[np.int64]  # [n], of the images that could be read
    best: NDArray[np.int16]  # [n], the classes it gave
    images: bytes  # the digests of all images in order, those that could not be read included


def _answers(store: Store | None, arm: Arm) -> _Answers | None:
    """The answers of an arm, or None if the run kept none. `store`: None where the run's database was not kept."""
    if store is None:
        return None
    kept = Predictions(store, arm.device)
    found = kept.results([arm.arm])
    return _Answers(found.labels, found.best[arm.arm][:, 0], kept.digests(arm.arm)) if len(found.labels) else None


def paired_top1(base: tuple[Store | None, Arm], head: tuple[Store | None, Arm]) -> tuple[PairedAnswers | None, str]:
    """The answers of the head's arm beside the base's and how they were paired; None where they are not of the same images in
    the same order, and why."""
    first, second = _answers(*base), _answers(*head)
    if first is None or second is None:
        return None, "not paired: predictions not kept"
    if first.images != second.images or not np.array_equal(first.labels, second.labels):
        return None, OTHER_IMAGES
    right = (first.best == first.labels, second.best == second.labels)
    return PairedAnswers(*right, int((first.best != second.best).sum())), "paired by image"
