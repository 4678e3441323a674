"""When a change between two programs fails, passes, or is inconclusive. numpy and scipy only.

The replicate is the process: rounds of one process share its memory layout, clocks and choices of algorithms, and a rule that
takes them for independent raises false alarms in 22 to 42 % of all cases. Of each quantity there is a mean of the logarithms
over a side's processes, and one-sided 95 % bounds of Student's t for their difference. Where the processes of a pair took
turns block by block, the pair is the replicate, and its value the change between blocks that were measured side by side:

FAIL: the upper bound of the change is below -margin, with Holm's correction over everything that is tested.
PASS: every lower bound is above -2 margin. All have to pass, so this needs no correction.
INCONCLUSIVE: neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from rmeeto_bench.measure.statistics import holm
from rmeeto_bench.records.comparison import FAIL, INCONCLUSIVE, MEMORY, PASS, RATE, SPEEDUP, TOP1, Change
from rmeeto_bench.records.run import Estimate

ALPHA = 0.05  # of each of the two looks; at a true change equal to the margin, FAIL is 7 to 8 % with the extension
FEWEST = 2  # processes a side without which there is no spread


@dataclass(frozen=True)
class Margins:
    """What change is tolerated: relative for images/s, speed-ups and memory, percentage points for top-1.

    A speed-up is the ratio of two rates that may each move by the rate's margin: its own is sqrt(2) times that.
    """

    rate: float = 0.005
    top1: float = 0.2
    memory: float = 0.01
    speedup_noise: float = 0.0
    rate_noise: float = 0.0

    def of(self, metric: str) -> float:
        """The margin of a metric: what was given, or what this machine can resolve, whichever is larger."""
        return {
            RATE: max(self.rate, self.rate_noise),
            SPEEDUP: max(self.rate * math.sqrt(2), self.speedup_noise),
            TOP1: self.top1,
            MEMORY: self.memory,
        }[metric]


@dataclass(frozen=True)
class Test:
    """One quantity's difference `value` with its standard error and degrees of freedom, so signed that negative is worse."""

    value: float
    error: float
    degrees: float

    def p_value(self, margin: float) -> float:
        """Of the hypothesis that the change is no worse than -margin."""
        if self.error == 0:
            return 0.0 if self.value < -margin else 1.0
        return float(stats.t.cdf((self.value + margin) / self.error, self.degrees))

    def bounds(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The two one-sided bounds."""
        half = float(stats.t.ppf(1 - alpha, self.degrees)) * self.error if self.error else 0.0
        return self.value - half, self.value + half


def two_means(base: Sequence[float], head: Sequence[float], *, lower_is_better: bool = False) -> Test:
    """The test of head against base, both positive and one value a process, on their logarithms."""
    first, second = np.log(np.asarray(base, float)), np.log(np.asarray(head, float))
    degrees = len(first) + len(second) - 2
    squares = ((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()
    error = float(np.sqrt(squares / degrees * (1 / len(first) + 1 / len(second))))
    value = float(second.mean() - first.mean())
    return Test(-value if lower_is_better else value, error if error > 1e-12 else 0.0, degrees)


def paired_means(changes: Sequence[float]) -> Test:
    """The test of the mean of logarithmic changes, one for each pair of processes that took turns."""
    values = np.asarray(changes, float)
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    return Test(float(values.mean()), error if error > 1e-12 else 0.0, len(values) - 1)


def paired_points(delta: Estimate, level: float) -> Test:
    """The test behind a difference of accuracies in points, from its two-sided interval at `level`."""
    assert delta.low is not None
    assert delta.high is not None
    error = (delta.high - delta.low) / 2 / float(stats.norm.ppf((1 + level) / 2))
    return Test((delta.high + delta.low) / 2, error, math.inf)


@dataclass(frozen=True)
class Tested:
    """A change before it is judged, with its test."""

    change: Change
    test: Test


def _interval(metric: str, test: Test, alpha: float) -> Estimate:
    low, high = test.bounds(alpha)
    if metric == TOP1:
        return Estimate(test.value, low, high)
    sign = -1 if metric == MEMORY else 1
    ends = sorted(math.expm1(sign * end) for end in (low, high))
    return Estimate(math.expm1(sign * test.value), *ends)


def of_processes(
    key: tuple[str, str, str],
    base: Sequence[float],
    head: Sequence[float],
    margins: Margins,
    alpha: float = ALPHA,
    changes: Sequence[float] = (),
) -> Tested:
    """The test of one (device, arm, metric) with one value per process and side, or the logarithmic change of each pair."""
    device, arm, metric = key
    test = paired_means(changes) if changes else two_means(base, head, lower_is_better=metric == MEMORY)
    means = (float(np.exp(np.mean(np.log(base)))), float(np.exp(np.mean(np.log(head)))))
    estimate = _interval(metric, test, alpha)
    return Tested(Change(device, arm, metric, *means, estimate, margins.of(metric), INCONCLUSIVE), test)


def judge(tested: Sequence[Tested], alpha: float = ALPHA) -> tuple[Change, ...]:
    """Every change with its outcome."""
    adjusted = holm([one.test.p_value(one.change.margin) for one in tested])
    judged = []
    for one, p in zip(tested, adjusted, strict=True):
        low, _ = one.test.bounds(alpha)
        outcome = FAIL if p <= alpha else PASS if low > -2 * one.change.margin else INCONCLUSIVE
        judged.append(replace(one.change, outcome=outcome))
    return tuple(judged)


def overall(changes: Sequence[Change]) -> str:
    """FAIL if anything fails, PASS if everything passes. Nothing at all is no pass: callers refuse it before."""
    outcomes = {change.outcome for change in changes}
    if FAIL in outcomes:
        return FAIL
    return PASS if outcomes == {PASS} else INCONCLUSIVE


Readings = Mapping[tuple[str, str, str], float]  # (device, arm, metric) -> value of one process


def collect(
    base: Sequence[Readings],
    head: Sequence[Readings],
    margins: Margins,
    alpha: float = ALPHA,
    changes: Sequence[Readings] = (),
) -> list[Tested]:
    """The tests of everything that every process of both sides has a value for. `changes`: of each pair that took turns."""
    sides = [*base, *head]
    keys = [key for key in (sides[0] if sides else ()) if all(key in readings for readings in sides)]
    if min(len(base), len(head)) < FEWEST:
        return []

    def of_pairs(key: tuple[str, str, str]) -> list[float]:
        return [pair[key] for pair in changes] if changes and all(key in pair for pair in changes) else []

    return [of_processes(key, [r[key] for r in base], [r[key] for r in head], margins, alpha, of_pairs(key)) for key in keys]
