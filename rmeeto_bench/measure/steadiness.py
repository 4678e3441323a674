"""Check that the arms kept their relation over a run, from its rounds and temperatures. numpy and scipy only.

An interval covers what differs from process to process. It cannot cover what changes the same way in every process, such as
heat that slows one arm more than another. What these tests see is NOT_STEADY; docs/intervals.md says what they cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS

Floats = NDArray[np.float64]
Session = Mapping[str, ArrayLike]  # seconds per image of each arm, round by round

FALSE_ALARMS = 0.005  # of each test in a run of clean noise, over all arms
FELT = 2 / 3  # share of a slow-down of the machine by which it may change a ratio: the share where 4 % meets 2 %
RAMP_P = 0.02  # p-value of a straight line through the levels of the sessions; the size of the ramp must count, too
LEAST_RAMP = 0.0075  # change of the machine's speed over a run, as a share, that slow noise reaches by itself
CLEAR = 3.0  # the machine's level must vary this many times as much as a ratio where both come from the same blocks
KELVIN = 3.0  # sessions whose temperatures differ by more are not one state of the device
RISE = 1.5  # kelvin from the first to the last third of a session's blocks, on average over the sessions
FEWEST_ROUNDS = 6  # fewer rounds of a session show no trend
DRAWS = 20_000  # random orders behind the null distribution of the level test


def _ranks(values: Floats) -> Floats:
    """Ranks [n] scaled to mean 0 and variance 1; values that are equal share a rank, and all equal give zeros."""
    ordered = np.sort(values)
    ranks: Floats = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    spread = ranks.std()
    return (ranks - ranks.mean()) / spread if spread > 0 else np.zeros(len(ranks))


def _p_correlation(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    """p-value that two rankings of the rounds have nothing in common: Spearman's correlation, summed over sessions."""
    total = sum(float(first @ second) / len(first) for first, second in pairs)
    return float(2 * special.ndtr(-abs(total) / np.sqrt(sum(1 / (len(first) - 1) for first, _ in pairs))))


def _steps(ranks: Floats) -> Floats:
    """The largest squared standardised difference between before and after over all splits, of the rows of [B, n]."""
    n = ranks.shape[-1]
    before = np.arange(1, n)
    sums = np.cumsum(ranks, axis=-1)[..., :-1]
    found: Floats = (sums**2 * (n - 1) / (before * (n - before))).max(axis=-1)
    return found


@cache
def _no_steps(lengths: tuple[int, ...]) -> Floats:
    """What `_steps` adds up to over sessions of these lengths where the order of rounds is random, sorted."""
    random = np.random.default_rng(0)
    total = np.zeros(DRAWS)
    for n in lengths:
        order = random.random((DRAWS, n)).argsort(axis=1).argsort(axis=1)
        total += _steps((order - (n - 1) / 2) / np.sqrt((n * n - 1) / 12))
    return np.sort(total)


def _p_level(ranked: Sequence[Floats]) -> float:
    """p-value that no jump of level runs through the rounds of the sessions."""
    null = _no_steps(tuple(sorted(len(ranks) for ranks in ranked)))
    seen = sum(float(_steps(ranks)) for ranks in ranked)
    return float((1 + len(null) - np.searchsorted(null, seen - 1e-9)) / (1 + len(null)))


def _p_follows(ratios: Sequence[Floats], logs: Sequence[Mapping[str, Floats]], own: tuple[str, str]) -> float:
    """p-value that an arm's ratio has nothing to do with the speed of the machine, as the other arms show it.

    With two arms both come from the same blocks, whose noise alone can relate them: then only a large change counts.
    """
    others = [name for name in logs[0] if name not in own]
    levels = [np.mean([session[name] for name in others or own], axis=0) for session in logs]
    spreads = [np.sqrt(np.mean([np.var(x) for x in values])) for values in (levels, ratios)]
    if not others and spreads[0] < CLEAR * spreads[1]:
        return 1.0
    return _p_correlation([(_ranks(ratio), _ranks(level)) for ratio, level in zip(ratios, levels, strict=True)])


def machine_ramp(logs: Sequence[Mapping[str, Floats]], least: float = 0.0) -> float:
    """By how much the machine's speed changed from the first session to the last, as a log; 0 below `least`, or where no
    straight line shows."""
    levels = np.array([np.mean([np.median(rounds) for rounds in session.values()]) for session in logs])
    if len(levels) <= ENOUGH_SESSIONS:
        return 0.0
    places = np.arange(len(levels)) - (len(levels) - 1) / 2
    slope = float(places @ levels / (places @ places))
    ramp = slope * (len(levels) - 1)
    if ramp == 0 or abs(ramp) < least:
        return 0.0
    rest = float(((levels - levels.mean() - slope * places) ** 2).sum() / (len(levels) - 2))
    t = abs(slope) / np.sqrt(max(rest, 1e-30) / (places @ places))
    return ramp if 2 * special.stdtr(len(levels) - 2, -t) < RAMP_P else 0.0


def unsteady(sessions: Sequence[Session], baseline: str, arm: str, half_width: float) -> str | None:
    """How an arm's speed-up moved in a way that its interval does not cover, or None.

    sessions: all arms of the run, so that the arms share the allowed false alarms · half_width: of the printed interval,
    as a share of the value.
    """
    logs = [{name: np.log(np.asarray(rounds, float)) for name, rounds in session.items()} for session in sessions]
    logs = [session for session in logs if len(session[baseline]) >= FEWEST_ROUNDS]
    if not logs or arm == baseline:
        return None
    allowed = FALSE_ALARMS / max(1, len(logs[0]) - 1)
    ratios = [session[baseline] - session[arm] for session in logs]
    ranked = [_ranks(ratio) for ratio in ratios]
    if _p_correlation([(ranks, _ranks(np.arange(float(len(ranks))))) for ranks in ranked]) < allowed:
        return "the speed-up drifted within the processes"
    if _p_level(ranked) < allowed:
        return "the speed-up jumped within the processes"
    if _p_follows(ratios, logs, (baseline, arm)) < allowed:
        return "the speed-up changed with the speed of the machine"
    ramp = machine_ramp(logs, max(half_width / FELT, LEAST_RAMP))
    if ramp:
        return f"the machine {'slowed down' if ramp > 0 else 'sped up'} by {100 * abs(ramp):.1f} % over the processes"
    return None


def still_warming(temperatures: Sequence[ArrayLike]) -> str | None:
    """How the device was not at one temperature, from degrees by session and block, or None."""
    known = [np.asarray(degrees, float) for degrees in temperatures if len(np.asarray(degrees)) >= FEWEST_ROUNDS]
    if not known:
        return None
    middles = [float(np.median(degrees)) for degrees in known]
    if max(middles) - min(middles) > KELVIN:
        return f"the temperature differed by {max(middles) - min(middles):.0f} K between the processes"
    thirds = [max(1, len(degrees) // 3) for degrees in known]
    rise = float(np.mean([np.mean(d[-t:]) - np.mean(d[:t]) for d, t in zip(known, thirds, strict=True)]))
    return f"the temperature rose by {rise:.1f} K within the processes" if rise > RISE else None
