"""When a change between two programs fails, passes, or is inconclusive. numpy and scipy only.

The replicate is the process: rounds of one process share its memory layout, clocks and choices of algorithms, and a rule that
takes them for independent raises false alarms in 22 to 42 % of all cases. A pair is two processes, one of each side, that ran
one after the other or took turns, and its value is the logarithmic change within it: what slows both sides cancels. Judged is
the mean over the pairs, with one-sided bounds of Student's t.

FAIL: the upper bound of the change is below -margin, with Holm's correction over everything that chance could decide.
PASS: every lower bound is above -2 margin. All have to pass, so this needs no correction.
INCONCLUSIVE: neither.

A speed-up falls when its arm gets slower, and also when the baseline gets faster. Only the first is a regression. So a speed-up
fails only if the rate of its own arm fell too (to any extent), and it passes where that rate passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmeeto_bench.compare.student import Student, mean_of, welch
from rmeeto_bench.compare.top1 import PairedAnswers
from rmeeto_bench.measure.statistics import holm_of
from rmeeto_bench.records.comparison import FAIL, INCONCLUSIVE, MEMORY, PASS, RATE, SPEEDUP, TOP1, Change
from rmeeto_bench.records.run import Estimate

TOTAL_ALPHA = 0.05  # how often the gate may fail, or pass, wrongly
# At the first look and at the second: together they keep TOTAL_ALPHA however noisy the machine is (docs/method.md).
ALPHAS = (0.015, 0.038)
FEWEST = 2  # pairs without which there is no spread
FAILS, UNCLEAR, PASSES = -1, 0, 1
OUTCOMES = {FAILS: FAIL, UNCLEAR: INCONCLUSIVE, PASSES: PASS}


@dataclass(frozen=True)
class Margins:
    """What change is tolerated. A speed-up is the ratio of two rates that may each move by the rate's margin, so that its own
    margin is sqrt(2) times that."""

    rate: float = 0.0075  # of images/s, relative
    top1: float = 0.2  # percentage points
    memory: float = 0.01  # relative

    def of(self, metric: str) -> float:
        """The margin of a metric."""
        return {RATE: self.rate, SPEEDUP: self.rate * math.sqrt(2), TOP1: self.top1, MEMORY: self.memory}[metric]


@dataclass(frozen=True)
class Tested:
    """A change before it is judged."""

    change: Change  # what changed, and by how much
    test: Student | PairedAnswers  # what says how sure the change is


def decide(
    tests: Sequence[Student | PairedAnswers], margins: Sequence[float], rate_of: Sequence[int], alpha: float
) -> NDArray[np.int64]:
    """The rule: FAILS, UNCLEAR or PASSES of each quantity, on the last axis.

    Tests may hold one value each, or arrays of one shape (many gates at once). `rate_of`: for a speed-up the position of its
    arm's rate, else -1. Top-1 is looked at once, as more processes bring no new images: its bound has all of `TOTAL_ALPHA`.
    """
    p = [test.p_worse(margin) for test, margin in zip(tests, margins, strict=True)]
    once = [TOTAL_ALPHA if isinstance(test, PairedAnswers) else alpha for test in tests]
    passes = [test.bounds(a)[0] > -2 * margin for test, margin, a in zip(tests, margins, once, strict=True)]
    for i, rate in enumerate(rate_of):
        if rate >= 0:
            p[i], passes[i] = np.maximum(p[i], tests[rate].p_worse(0.0)), passes[i] | passes[rate]
    raw = np.stack([np.asarray(one, float) for one in p], -1)
    certain = np.stack([np.asarray(test.error) == 0 for test in tests], -1)
    adjusted = np.where(certain, raw, holm_of(np.where(certain, np.nan, raw)))
    return np.where(adjusted <= alpha, FAILS, np.where(np.stack(passes, -1), PASSES, UNCLEAR))


def combined(outcomes: ArrayLike) -> Any:
    """The outcome of a gate, from those of its quantities on the last axis: it fails with one, and passes with all."""
    found = np.asarray(outcomes)
    return np.where((found == FAILS).any(-1), FAILS, np.where((found == PASSES).all(-1), PASSES, UNCLEAR))[()]


def interval(metric: str, test: Student, alpha: float) -> Estimate:
    """The change with its two one-sided bounds as an interval, in the unit of its metric."""
    sign = -1 if metric == MEMORY else 1
    low, high = sorted(math.expm1(sign * end) for end in test.bounds(alpha))
    return Estimate(math.expm1(sign * test.value), low, high)


def rates_of(keys: Sequence[tuple[str, str, str]]) -> list[int]:
    """For each (device, arm, metric) that is a speed-up the position of its arm's rate; -1 for the others and where none is."""
    rates = {key[:2]: position for position, key in enumerate(keys) if key[2] == RATE}
    return [rates.get(key[:2], -1) if key[2] == SPEEDUP else -1 for key in keys]


def judge(tested: Sequence[Tested], alpha: float = ALPHAS[0]) -> tuple[Change, ...]:
    """Every change with its outcome, and in its detail what else explains it."""
    if not tested:
        return ()
    keys = [(one.change.device, one.change.arm, one.change.metric) for one in tested]
    found = decide([one.test for one in tested], [one.change.margin for one in tested], rates_of(keys), alpha)
    judged = [replace(one.change, outcome=OUTCOMES[int(code)]) for one, code in zip(tested, found, strict=True)]
    bounds = {key: one.test.bounds(alpha) for key, one in zip(keys, tested, strict=True)}
    return tuple(replace(change, detail=change.detail or _why_lower(change, bounds)) for change in judged)


def _why_lower(change: Change, bounds: Mapping[tuple[str, str, str], tuple[Any, Any]]) -> str:
    """Why a speed-up that fell, or may have fallen far, passes all the same; nothing for any other change."""
    low, high = bounds[change.device, change.arm, change.metric]
    if change.metric != SPEEDUP or change.outcome != PASS or low > -2 * change.margin:
        return ""
    baseline = (change.device, change.baseline, RATE)
    if high < 0 < bounds.get(baseline, (0.0, 0.0))[0]:
        return f"the speed-up of {change.arm} fell because r = 0 got faster; {change.arm} itself is not slower"
    return f"the speed-up of {change.arm} may have fallen, but {change.arm} itself is not slower by twice its margin"


def overall(changes: Sequence[Change]) -> str:
    """FAIL if anything fails, PASS if everything passes. Nothing at all is no pass: callers refuse it before."""
    outcomes = {change.outcome for change in changes}
    if FAIL in outcomes:
        return FAIL
    return PASS if outcomes == {PASS} else INCONCLUSIVE


Readings = Mapping[tuple[str, str, str], float]  # (device, arm, metric) -> value of one process


def _log(key: tuple[str, str, str], readings: Sequence[Readings]) -> NDArray[np.float64]:
    sign = -1 if key[2] == MEMORY else 1
    return sign * np.log([one[key] for one in readings])


def collect(
    base: Sequence[Readings],
    head: Sequence[Readings],
    margins: Margins,
    alpha: float = ALPHAS[0],
    changes: Sequence[Readings] | None = None,
) -> list[Tested]:
    """The tests of everything that every process of both sides has a value for.

    `changes`: the logarithmic changes within each pair. Without it the sides are no pairs (a stored run) and their means are
    compared.
    """
    sides = [*base, *head]
    keys = [key for key in (sides[0] if sides else ()) if all(key in readings for readings in sides)]
    if min(len(base), len(head)) < FEWEST:
        return []
    tested = []
    for key in keys:
        if changes is None:
            test = welch(mean_of(_log(key, base)), mean_of(_log(key, head)))
        elif all(key in pair for pair in changes):
            test = mean_of([pair[key] for pair in changes])
        else:
            continue
        first, second = (float(np.exp(np.mean(np.log([one[key] for one in side])))) for side in (base, head))
        change = Change(*key, first, second, interval(key[2], test, alpha), margins.of(key[2]), INCONCLUSIVE)
        tested.append(Tested(change, test))
    return tested


def process_changes(base: Readings, head: Readings) -> dict[tuple[str, str, str], float]:
    """The logarithmic change from one process of the base to one of the head, so signed that negative is worse."""
    return {key: float(_log(key, [head])[0] - _log(key, [base])[0]) for key in base if key in head}
