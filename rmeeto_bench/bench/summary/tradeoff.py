"""What speed and accuracy say together about the arms of one model on one device: break-even ratio, images/s per point of
accuracy, and which arm another one beats in both.

The first two have no closed form, so rounds (of each session, and the sessions) and images are resampled together,
as all arms shared them. Fewer than three sessions give no interval. numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rmeeto_bench.measure.statistics import (
    ENOUGH_SESSIONS,
    break_even,
    holm,
    mcnemar,
    more_accurate,
    p_same,
    run_estimate,
    run_speedup,
)
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS
from rmeeto_bench.records.run import Arm, Estimate

Floats = NDArray[np.float64]
Correct = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class ArmSamples:
    """Raw data of one arm."""

    ratio: float  # reduction ratio
    # per image, by session and round; the same positions of other arms are of the same round
    seconds: tuple[Sequence[float], ...]
    correct: NDArray[np.bool_] | None = None  # whether each image was classified rightly, [N]; None: unknown


def _centres(values: Floats) -> Floats:
    """Hodges-Lehmann estimates of the rows of [B, n]."""
    i, j = np.triu_indices(values.shape[1])
    centres: Floats = np.median((values[:, i] + values[:, j]) / 2, axis=1)
    return centres


class Tradeoff:
    """The arms of one model on one device, the first being the baseline; needs at least two rounds."""

    def __init__(self, arms: Sequence[ArmSamples], *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        self.arms, self.resamples, self.level = list(arms), resamples, level
        self._random = np.random.default_rng(seed)
        sessions = [k for k, rounds in enumerate(self.arms[0].seconds) if len(rounds)]
        logs = [[np.log(np.asarray(arm.seconds[k], float)) for arm in self.arms] for k in sessions]
        # columns: the baseline's log rate, then each arm's log speed-up, so that drift cancels in the latter
        self._columns = [[-rows[0], *(rows[0] - row for row in rows)] for rows in logs]

    @cached_property
    def logs(self) -> Floats:
        """Estimates [1 + arms]: the baseline's log images/s, log speed-ups of all arms."""
        return np.array([run_estimate(column).value for column in zip(*self._columns, strict=True)])

    @cached_property
    def _resampled_logs(self) -> Floats:
        """[B, 1 + arms] like `logs`. A percentile bootstrap of few replicates is too narrow by known factors; the spread
        is stretched to Student's."""
        total, width = len(self._columns), len(self.arms) + 1
        by_session = np.empty((total, self.resamples, width))
        for s, columns in enumerate(self._columns):
            n = len(columns[0])
            picked = self._random.integers(0, n, (self.resamples, n))
            for c, column in enumerate(columns):
                by_session[s, :, c] = _centres(column[picked])
        chosen = self._random.integers(0, total, (self.resamples, total))
        drawn = by_session[chosen, np.arange(self.resamples)[:, None]].mean(axis=1)
        tail = (1 + self.level) / 2
        stretch = np.sqrt(total / (total - 1)) * special.stdtrit(total - 1, tail) / special.ndtri(tail)
        stretched: Floats = self.logs + stretch * (drawn - self.logs)
        return stretched

    @cached_property
    def _top1(self) -> tuple[Floats, Floats] | None:
        """Top-1 in percent of each arm [arms], and resampled over images [B, arms]; None if one is unknown.

        Images with the same pattern of right and wrong over the arms are alike: their counts are multinomial.
        """
        known = [arm.correct for arm in self.arms if arm.correct is not None]
        if len(known) < len(self.arms) or len(known[0]) == 0:
            return None
        patterns, counts = np.unique(np.stack(known, axis=1), axis=0, return_counts=True)
        total = counts.sum()
        drawn = self._random.multinomial(total, counts / total, self.resamples)
        return 100 * counts @ patterns / total, 100 * drawn @ patterns / total

    def _interval(self, value: float, draws: Floats) -> Estimate:
        """Percentile interval; an end that is not finite is unknown."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
        return Estimate(value, float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)

    def break_even(self) -> Estimate | None:
        """The reduction ratio from which on merging pays (see `statistics.break_even`); no upper end if merging may not
        pay at any ratio measured; None if it does not."""
        ratios = [arm.ratio for arm in self.arms]
        value = break_even(ratios, list(np.exp(self.logs[1:])))
        if value is None:
            return None
        if len(self._columns) < ENOUGH_SESSIONS:
            return Estimate(value)
        found = [break_even(ratios, list(row)) for row in np.exp(self._resampled_logs[:, 1:])]
        return self._interval(value, np.array([np.inf if ratio is None else ratio for ratio in found]))

    def images_per_second_per_point(self, index: int) -> Estimate | None:
        """Images/s that arm `index` gains per percentage point of top-1 it loses against the baseline.

        None without accuracies or where nothing is lost; an end of the interval is unknown where the loss may be none.
        """
        if self._top1 is None:
            return None
        top1, drawn = self._top1
        loss, losses = top1[0] - top1[index], drawn[:, 0] - drawn[:, index]
        if loss <= 0:
            return None
        gain = np.exp(self.logs[0]) * np.expm1(self.logs[1 + index])
        if len(self._columns) < ENOUGH_SESSIONS:
            return Estimate(float(gain / loss))
        gains = np.exp(self._resampled_logs[:, 0]) * np.expm1(self._resampled_logs[:, 1 + index])
        unbounded = np.where(gains >= 0, np.inf, -np.inf)
        return self._interval(float(gain / loss), np.divide(gains, losses, out=unbounded, where=losses > 0))


def with_tradeoffs(
    rows: Sequence[Arm], sessions: Sequence[Mapping[str, list[float]]], correct: Correct, seed: int
) -> list[Arm]:
    """The rows with break-even, price per point, and p-values of McNemar's and of being beaten; the first row is the baseline.

    sessions: seconds per image of each arm by session and round · correct: right or wrong by image, for evaluated arms.
    """
    return _with_p_values(with_beaten(_with_prices(list(rows), sessions, correct, seed), sessions, correct), correct)


def with_beaten(rows: list[Arm], sessions: Sequence[Mapping[str, list[float]]], correct: Correct) -> list[Arm]:
    """The rows with two p-values. `beaten_p`: that no other arm is both faster and more accurate; of two claims that must both
    hold the weaker counts, and the p-value of a pair is adjusted for all pairs. `front_p`, where models are compared: that some
    other arm is at least as fast and as accurate; the stronger of two claims counts twice (Bonferroni), the worst of all other
    arms counts, and it is adjusted for all arms."""
    known = [row.arm for row in rows if row.arm in correct and row.rounds >= FEWEST_ROUNDS]
    if len(sessions) < ENOUGH_SESSIONS or len(known) < 2:
        return rows
    pairs = [(arm, other) for arm in known for other in known if arm != other]
    p_beaten, p_ahead = [], dict.fromkeys(known, 0.0)
    for arm, other in pairs:
        faster = run_speedup([session[arm] for session in sessions], [session[other] for session in sessions])
        p_faster, p_slower = _one_sided(faster, len(sessions))
        p_beaten.append(max(p_faster, more_accurate(correct[arm], correct[other])))
        p_ahead[arm] = max(p_ahead[arm], min(1.0, 2 * min(p_slower, more_accurate(correct[other], correct[arm]))))
    found: dict[str, float] = {}
    for (arm, _), p in zip(pairs, holm(p_beaten), strict=True):
        found[arm] = min(p, found.get(arm, 1.0))
    rows = [replace(row, beaten_p=found.get(row.arm)) for row in rows]
    ahead = dict(zip(known, holm([p_ahead[arm] for arm in known]), strict=True))
    return [replace(row, front_p=ahead.get(row.arm) if row.baseline else None) for row in rows]


def _one_sided(speedup: Estimate, sessions: int) -> tuple[float, float]:
    """P-values of the claims that a speed-up is above 1, and that it is below."""
    p = p_same(speedup, sessions) / 2
    return (p, 1.0) if speedup.value > 1 else (1.0, p)


def _with_prices(rows: list[Arm], sessions: Sequence[Mapping[str, list[float]]], correct: Correct, seed: int) -> list[Arm]:
    timed = [row for row in rows if row.rounds >= FEWEST_ROUNDS]
    if len(timed) < 2 or timed[0] is not rows[0]:
        return rows
    samples = [
        ArmSamples(row.reduction_ratio, tuple(session[row.arm] for session in sessions), correct.get(row.arm)) for row in timed
    ]
    tradeoff = Tradeoff(samples, seed=seed)
    found = {}
    for index, row in enumerate(timed):
        price = tradeoff.images_per_second_per_point(index) if index else None
        found[row.arm] = replace(row, images_per_second_per_point=price)
    if not rows[0].baseline:  # over one model's ratios
        found[rows[0].arm] = replace(found[rows[0].arm], break_even=tradeoff.break_even())
    return [found.get(row.arm, row) for row in rows]


def _with_p_values(rows: list[Arm], correct: Correct) -> list[Arm]:
    first = correct.get(rows[0].arm)
    tested = [row.arm for row in rows[1:] if row.arm in correct]
    if first is None or not tested:
        return rows
    p_values = dict(zip(tested, holm([mcnemar(first, correct[arm]) for arm in tested]), strict=True))
    return [replace(row, top1_p=p_values.get(row.arm)) for row in rows]
