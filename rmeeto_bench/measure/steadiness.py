"""Check that the arms kept their relation over a run, from its rounds and temperatures. numpy and scipy only.

An interval covers what differs from process to process. It cannot cover what changes the same way in every process, such as
heat that slows one arm more than another. What these tests see is NOT_STEADY; docs/intervals.md says what they cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Session = Mapping[str, ArrayLike]  # seconds per image of each arm, round by round

FALSE_ALARMS = 0.01  # in a run of clean noise, over all arms
KELVIN = 3.0  # sessions whose temperatures differ by more are not one state of the device
RISE = 1.5  # kelvin from the first to the last third of a session's blocks, on average over the sessions
FEWEST_ROUNDS = 6  # fewer rounds of a session show no trend


def _trend(values: Floats) -> float:
    """Spearman's correlation of the values of a session with the order of its rounds; 0 where all are equal."""
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    places = np.arange(len(values)) - (len(values) - 1) / 2
    spread = ranks.std() * places.std()
    return float(ranks @ places / len(values) / spread) if spread > 0 else 0.0


def unsteady(sessions: Sequence[Session], baseline: str, arm: str) -> str | None:
    """How an arm's speed-up moved in a way that its interval does not cover, or None.

    sessions: all arms of the run, so that the arms share the allowed false alarms. What moves the same way in every session
    counts; what comes and goes is in the spread of the sessions.
    """
    known = [session for session in sessions if len(np.asarray(session[baseline])) >= FEWEST_ROUNDS]
    if not known or arm == baseline:
        return None
    ratios = [np.log(np.asarray(session[baseline], float) / np.asarray(session[arm], float)) for session in known]
    total = sum(_trend(ratio) for ratio in ratios)
    error = np.sqrt(sum(1 / (len(ratio) - 1) for ratio in ratios))
    p_value = float(2 * special.ndtr(-abs(total) / error))
    return "the speed-up drifted within the processes" if p_value < FALSE_ALARMS / max(1, len(known[0]) - 1) else None


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
