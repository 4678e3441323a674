"""The statistics of paired, interleaved measurements. numpy and scipy only: reports import this without torch.

At 8 to 40 rounds the percentile bootstrap covers 0.88 to 0.93 of its nominal 0.95. The Wilcoxon interval around the
Hodges-Lehmann estimate covers 0.95 and resists outliers. Pairing inside rounds cancels drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rmeeto_bench.records.run import Block, Estimate


def numbered_rounds(blocks: Iterable[Block], arms: Sequence[str]) -> list[dict[int, dict[str, float]]]:
    """Seconds per image of these arms in every round that counts, by round number, one entry per session in order.

    A round counts if it has a block of each arm and none of its blocks was rejected.
    """
    wanted = set(arms)
    sessions: dict[int, dict[int, dict[str, float] | None]] = {}
    for block in blocks:
        rounds = sessions.setdefault(block.session, {})
        found = rounds.setdefault(block.round, {})
        if block.rejected_reason:
            rounds[block.round] = None
        elif found is not None and block.arm in wanted:
            found[block.arm] = block.seconds / block.images
    return [
        {number: found for number, found in sorted(rounds.items()) if found is not None and len(found) == len(wanted)}
        for _, rounds in sorted(sessions.items())
    ]


def complete_rounds(blocks: Iterable[Block], arms: Sequence[str]) -> list[dict[str, list[float]]]:
    """The same without the round numbers: one list per arm and session, the arms of a round at the same position."""
    return [{arm: [found[arm] for found in rounds.values()] for arm in arms} for rounds in numbered_rounds(blocks, arms)]


EXACT_LIMIT = 60  # above this many rounds the normal approximation of the signed-rank distribution is as good
# How many times narrower than asked for the median half-width of a run may be that is nearly as noisy as may be; the single
# one of a run of two arms, which no other row backs; and a row that is still printed as wide as asked for.
NEARLY, NEARLY_ALONE, FAR = 1.5, 2.0, 3.0
ENOUGH_SESSIONS = 3  # from which on sessions, not rounds, are the replicates


def _walsh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """All pairwise means (each value with itself too), sorted: n (n + 1) / 2 of them."""
    i, j = np.triu_indices(len(x))
    return np.sort((x[i] + x[j]) / 2)


def hodges_lehmann(x: ArrayLike) -> float:
    """The median of all pairwise means: as robust as the median, nearly as efficient as the mean."""
    return float(np.median(_walsh(np.asarray(x, float))))


@cache
def _signed_rank_tail(n: int, level: float) -> int:
    """Walsh averages to leave out at each end for a two-sided interval of at least `level`; 0 where n is too small."""
    alpha = (1 - level) / 2
    if n > EXACT_LIMIT:
        mean, deviation = n * (n + 1) / 4, np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return int(np.floor(mean + special.ndtri(alpha) * deviation))
    counts = np.array([1.0])
    for rank in range(1, n + 1):  # distribution of the sum of a random subset of the ranks
        counts = np.concatenate([counts, np.zeros(rank)]) + np.concatenate([np.zeros(rank), counts])
    return int(np.searchsorted(np.cumsum(counts) / 2.0**n, alpha, side="right"))


def t_interval(x: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean and Student t interval; no interval for fewer than two values."""
    values = np.asarray(x, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean)
    half = float(special.stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def wilcoxon_interval(x: ArrayLike, level: float = 0.95) -> Estimate:
    """Hodges-Lehmann estimate with the interval that inverts Wilcoxon's signed-rank test.

    With fewer than six values that test cannot reach 95 %. The interval is then Student's t, of the same values.
    """
    values = np.asarray(x, float)
    k = _signed_rank_tail(len(values), level)
    if k < 1:
        fallback = t_interval(values, level)
        return Estimate(hodges_lehmann(values), fallback.low, fallback.high)
    walsh = _walsh(values)
    return Estimate(float(np.median(walsh)), float(walsh[k - 1]), float(walsh[-k]))


def paired_speedup(baseline: ArrayLike, arm: ArrayLike, level: float = 0.95) -> Estimate:
    """How many times faster the arm is, from seconds per image of both in the same rounds, in order."""
    logs = np.log(np.asarray(baseline, float)) - np.log(np.asarray(arm, float))
    inner = wilcoxon_interval(logs, level)
    return _map(inner, np.exp)


def rate(seconds_per_image: ArrayLike, level: float = 0.95) -> Estimate:
    """Images per second from seconds per image by round; wider than a speed-up, as drift does not cancel."""
    return _map(wilcoxon_interval(-np.log(np.asarray(seconds_per_image, float)), level), np.exp)


def _map(estimate: Estimate, function: np.ufunc) -> Estimate:
    low, high = estimate.low, estimate.high
    return Estimate(
        float(function(estimate.value)),
        None if low is None else float(function(low)),
        None if high is None else float(function(high)),
    )


def within_error(sessions: Sequence[NDArray[np.float64]]) -> float:
    """Standard error of the mean of the sessions' estimates that the spread of rounds inside the sessions alone explains.

    The spread is the median absolute deviation over all sessions together, so that a few slow blocks do not count. The
    variance of a Hodges-Lehmann estimate is pi / 3 times that of a mean.
    """
    known = [x for x in sessions if len(x) > 1]
    if not known:
        return 0.0
    residuals = np.concatenate([(x - np.median(x)) * np.sqrt(len(x) / (len(x) - 1)) for x in known])
    spread = float(np.median(np.abs(residuals - np.median(residuals))) / special.ndtri(0.75))
    return float(spread * np.sqrt(np.pi / 3 * sum(1 / len(x) for x in sessions)) / len(sessions))


def run_estimate(logs: Sequence[ArrayLike], level: float = 0.95) -> Estimate:
    """One run's estimate from values of its sessions (one array each); the same unit as the values.

    Each session has one Hodges-Lehmann estimate, as its rounds share a process. From three sessions on the interval is
    Student's over these, around their mean, and never narrower than the rounds inside the sessions allow: a few sessions
    agree by luck more closely than any of them knows its own value. With fewer sessions the interval is Wilcoxon's over
    all rounds together, around their median, and does not cover how processes differ.
    """
    sessions = [np.asarray(x, float) for x in logs if len(np.asarray(x))]
    if not sessions:
        raise ValueError("a run without rounds has no estimate")
    centres = [hodges_lehmann(x) for x in sessions]
    if len(sessions) >= ENOUGH_SESSIONS:
        found = t_interval(centres, level)
        assert found.high is not None
        floor = float(special.ndtri((1 + level) / 2)) * within_error(sessions)
        half = max(found.high - found.value, floor)
        return Estimate(found.value, found.value - half, found.value + half)
    pooled = wilcoxon_interval(np.concatenate(sessions), level)
    value = float(np.median(centres))
    if pooled.low is None or pooled.high is None:
        return Estimate(value)
    return Estimate(value, min(value, pooled.low), max(value, pooled.high))


def run_speedup(baseline: Sequence[ArrayLike], arm: Sequence[ArrayLike], level: float = 0.95) -> Estimate:
    """How many times faster the arm is over a run: seconds per image of both by session and round, paired in order."""
    logs = [np.log(np.asarray(b, float)) - np.log(np.asarray(a, float)) for b, a in zip(baseline, arm, strict=True)]
    return _map(run_estimate(logs, level), np.exp)


def as_asked(own: Estimate, widths: Sequence[float], asked: float, sessions: int) -> Estimate:
    """The interval to print where half-widths up to `asked` (a share of the value) make a row VALID, from its own interval.

    widths: half-widths of all speed-ups of the run, this one's too. The few runs of a noisy machine whose processes agree by
    luck are the ones that pass, and their own intervals are too narrow. The mean over the processes knows nothing of that luck,
    so an interval whose width does not follow it covers: where the run is nearly as noisy as may be, a row that is not far
    narrower is printed as wide as asked for. docs/intervals.md has what that gives and costs.
    """
    nearly = NEARLY if len(widths) > 1 else NEARLY_ALONE
    near = float(np.median(widths)) >= asked / nearly and asked / FAR <= half_width(own) <= asked
    if sessions < ENOUGH_SESSIONS or not near:
        return own
    factor = float(
        np.exp(np.arcsinh(asked))
    )  # the ends are as far on a logarithmic scale, and the half-width is the one asked for
    return Estimate(own.value, own.value / factor, own.value * factor)


def p_same(speedup: Estimate, sessions: int, level: float = 0.95) -> float:
    """Two-sided p-value that a speed-up over these sessions is 1, from its interval; 1 where sessions are too few to tell."""
    if sessions < ENOUGH_SESSIONS or speedup.low is None or speedup.high is None:
        return 1.0
    if speedup.value == 1:
        return 1.0
    error = np.log(speedup.high / speedup.low) / 2 / float(special.stdtrit(sessions - 1, (1 + level) / 2))
    return float(2 * special.stdtr(sessions - 1, -abs(np.log(speedup.value)) / error)) if error > 0 else 0.0


def run_rate(seconds_per_image: Sequence[ArrayLike], level: float = 0.95) -> Estimate:
    """Images per second over a run, from seconds per image by session and round."""
    return _map(run_estimate([-np.log(np.asarray(x, float)) for x in seconds_per_image], level), np.exp)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values in the order given: reject those at or below alpha, and no true hypothesis is rejected
    with more than probability alpha over all of them (Holm 1979)."""
    return [float(p) for p in holm_of(list(p_values))]


def half_width(estimate: Estimate) -> float:
    """Half of the interval relative to the value; infinite without an interval."""
    if estimate.low is None or estimate.high is None:
        return float("inf")
    return (estimate.high - estimate.low) / 2 / abs(estimate.value)


FEW = 3  # of right or wrong images, up to which the end of Wilson's interval is too far in


def wilson(correct: int, total: int, level: float = 0.95) -> Estimate:
    """A proportion in percent with Wilson's score interval.

    Where hardly any image is right, or wrong, the end next to the edge is the one of a Poisson count (Brown, Cai and
    DasGupta 2001): Wilson's own would cover the truth in 0.84 of cases there.
    """
    z, share = float(special.ndtri((1 + level) / 2)), correct / total
    centre, scale = share + z**2 / (2 * total), 1 + z**2 / total
    half = z * float(np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)))
    low = (centre - half) / scale if correct else 0.0
    high = (centre + half) / scale if correct < total else 1.0
    if 0 < correct <= FEW:
        low = min(low, float(special.gammaincinv(correct, 1 - level)) / total)
    if 0 < total - correct <= FEW:
        high = max(high, 1 - float(special.gammaincinv(total - correct, 1 - level)) / total)
    return Estimate(100 * correct / total, 100 * low, 100 * high)


def paired_delta(baseline: ArrayLike, arm: ArrayLike, level: float = 0.95) -> Estimate:
    """Accuracy of the arm minus the baseline's in percentage points, from per-image correctness (bool [N]) of both.

    The interval inverts Tango's (1998) score test for paired proportions: it stays within +-100 points and covers where
    few images change. Images that both get right or both get wrong carry no information, so it is far tighter than two
    separate intervals.
    """
    first, second = np.asarray(baseline, bool), np.asarray(arm, bool)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    total = len(first)
    value = (gained - lost) / total
    z = float(special.ndtri((1 + level) / 2))

    def end(outer: float) -> float:
        inside, outside = value, outer
        for _ in range(50):
            middle = (inside + outside) / 2
            if abs(_tango(gained, lost, total, middle)) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    return Estimate(100 * value, 100 * end(-1.0), 100 * end(1.0))


def _tango(gained: int, lost: int, total: int, delta: float) -> float:
    """Tango's score statistic that the true difference of two paired proportions is `delta`."""
    b = -gained - lost + (2 * total - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    share = (np.sqrt(max(0.0, b * b - 8 * total * c)) - b) / (4 * total)  # of lost images, at this difference
    variance = total * (2 * share + delta * (1 - delta))
    difference = gained - lost - total * delta
    return float(difference / np.sqrt(variance)) if variance > 0 else (0.0 if difference == 0 else float("inf"))


def more_accurate(baseline: ArrayLike, arm: ArrayLike) -> float:
    """One-sided mid-p value of McNemar's exact test that the arm is no more accurate than the baseline."""
    first, second = np.asarray(baseline, bool), np.asarray(arm, bool)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return _mid_p(lost, gained + lost) if gained + lost else 1.0


def mcnemar(baseline: ArrayLike, arm: ArrayLike) -> float:
    """Two-sided mid-p value of McNemar's exact test that both are equally accurate."""
    first, second = np.asarray(baseline, bool), np.asarray(arm, bool)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    discordant = gained + lost
    return min(1.0, 2 * _mid_p(min(gained, lost), discordant)) if discordant else 1.0


def _mid_p(count: int, total: int) -> float:
    """P(fewer than `count` heads of `total`) and half of P(`count` heads), of a fair coin."""
    ways = special.gammaln(total + 1) - special.gammaln(count + 1) - special.gammaln(total - count + 1)
    return float(special.bdtr(count, total, 0.5) - 0.5 * np.exp(ways - total * np.log(2)))


def break_even(ratios: Sequence[float], speedups: Sequence[float]) -> float | None:
    """The reduction ratio from which on merging is faster than not merging, by linear interpolation between arms.

    The last upward crossing of 1. 0 if every merging arm is faster; None if the largest ratio is not.
    """
    points = sorted(zip(ratios, speedups, strict=True))
    if not points or points[-1][1] <= 1:
        return None
    crossing = 0.0
    for (ratio, speedup), (next_ratio, next_speedup) in pairwise(points):
        if speedup < 1 < next_speedup:
            crossing = ratio + (1 - speedup) / (next_speedup - speedup) * (next_ratio - ratio)
    return crossing


def paired_p_value(gained: int, lost: int, total: int, delta: float) -> float:
    """One-sided p-value of the hypothesis that the true difference of two paired proportions is at least `delta`, from
    Tango's score test: `gained` images of `total` were wrong and became right, `lost` were right and became wrong."""
    return float(special.ndtr(_tango(gained, lost, total, delta)))


def log_error(estimate: Estimate, sessions: int, level: float = 0.95) -> float | None:
    """Standard error of the logarithm behind an interval that `run_speedup` or `run_rate` made of this many sessions.

    None without an interval, or where sessions were not the replicates.
    """
    if estimate.low is None or estimate.high is None or sessions < ENOUGH_SESSIONS:
        return None
    half = float(np.log(estimate.high / estimate.low)) / 2
    return half / float(special.stdtrit(sessions - 1, (1 + level) / 2))


def holm_of(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values over the last axis, of many families at once. NaN stands for what is not tested."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, axis=-1)  # NaN comes last
    tested = np.isfinite(p).sum(axis=-1, keepdims=True)
    ranked = np.take_along_axis(p, order, -1) * np.maximum(1, tested - np.arange(p.shape[-1]))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1.0, np.maximum.accumulate(ranked, axis=-1)), -1)
    return adjusted
