"""What the gate will do on a device whose noise is known: its own rule on many simulated gates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmeeto_bench.compare.gate_rule import ALPHAS, FAILS, PASSES, UNCLEAR, Margins, combined, decide
from rmeeto_bench.compare.student import mean_of
from rmeeto_bench.records.comparison import RATE, SPEEDUP

ARMS = 3  # of the default gate: r = 0 and two ratios
TRIALS = 2000
SURE, LIKELY = 0.95, 0.9
STEPS = 9  # halvings: to a five-hundredth of the range
WIDEST = 30.0  # standard deviations of a pair beyond which no gate would be of use


@dataclass(frozen=True)
class PairNoise:
    """How much the change within a pair of processes of one program varies. Relative: 0.01 is 1 %."""

    rate_sd: float  # of the change of images/s
    speedup_sd: float  # of the change of a speed-up
    degrees: float = math.inf  # degrees of freedom with which both are known


@lru_cache(maxsize=4)
def _noises(noise: PairNoise, arms: int, pairs: int, trials: int, seed: int) -> NDArray[np.float64]:
    """The rates' part of `draw` that is chance [trial, arm, pair]."""
    rng = np.random.default_rng(seed)
    own = noise.speedup_sd / math.sqrt(2)
    shared = math.sqrt(max(0.0, noise.rate_sd**2 - own**2))
    found = own * rng.normal(size=(trials, arms, pairs)) + shared * rng.normal(size=(trials, 1, pairs))
    if math.isfinite(noise.degrees):
        found *= np.sqrt(noise.degrees / rng.chisquare(noise.degrees, (trials, 1, 1)))
    return found


def draw(noise: PairNoise, changes: ArrayLike, pairs: int, trials: int = TRIALS, seed: int = 0) -> NDArray[np.float64]:
    """Logarithmic changes of rates and then speed-ups [trial, quantity, pair], where arm i truly changes by `changes[i]`.

    The spread of each trial is drawn from what is known of it, so that shares of trials hold over repeated calibrations.
    """
    true = np.asarray(changes, float)
    rates = true[:, None] + _noises(noise, len(true), pairs, trials, seed)
    return np.concatenate([rates, rates[:, 1:] - rates[:, :1]], 1)


def outcomes(found: NDArray[np.float64], pairs: int, margin: float) -> NDArray[np.int64]:
    """The outcome of each of many gates from the changes within its pairs [trial, quantity, 2 pairs], as `draw` orders them."""
    arms = (found.shape[1] + 1) // 2
    margins = Margins(rate=margin)
    every = [margins.of(RATE)] * arms + [margins.of(SPEEDUP)] * (arms - 1)
    rate_of = [-1] * arms + list(range(1, arms))
    judged = np.full(len(found), UNCLEAR)
    for alpha, count in zip(ALPHAS, (pairs, 2 * pairs), strict=True):
        open_ = judged == UNCLEAR
        tests = [mean_of(found[open_, i, :count]) for i in range(found.shape[1])]
        judged[open_] = combined(decide(tests, every, rate_of, alpha))
    return judged


def share(outcome: int, noise: PairNoise, loss: float, margin: float, pairs: int) -> float:
    """The share of gates with this outcome where the last arm truly loses `loss` and the others nothing."""
    changes = np.zeros(ARMS)
    changes[-1] = math.log1p(-loss)
    return float(np.mean(outcomes(draw(noise, changes, 2 * pairs), pairs, margin) == outcome))


def _first(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The smallest value from which on a condition holds, or None if it does not at `high`."""
    if holds(low):
        return low
    if not holds(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def margin_for(noise: PairNoise, pairs: int, least: float) -> float:
    """The smallest margin from `least` on with which the gate passes what is unchanged, and fails what lost two margins, in
    nine of ten cases."""

    def decisive(margin: float) -> bool:
        failed = share(FAILS, noise, 2 * margin, margin, pairs)
        return failed >= LIKELY and share(PASSES, noise, 0.0, margin, pairs) >= LIKELY

    most = min(0.45, least + WIDEST * noise.rate_sd)
    return _first(decisive, least, most) or most


def fails_and_passes(noise: PairNoise, margin: float, pairs: int) -> tuple[float | None, float | None]:
    """The smallest loss of images/s of one arm that the gate FAILs in 95 of 100 cases, and the largest that it PASSes in 95 of
    100. None where there is no such loss."""
    most = min(0.9, 2 * margin + WIDEST * noise.rate_sd)
    fails = _first(lambda loss: share(FAILS, noise, loss, margin, pairs) >= SURE, margin, most)
    if share(PASSES, noise, 0.0, margin, pairs) < SURE:
        return fails, None
    passes = _first(lambda loss: share(PASSES, noise, loss, margin, pairs) < SURE, 0.0, 2 * margin)
    return fails, passes
