"""What speed and accuracy say together about the arms of one model on one device, added to their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.summary.tradeoff import ArmSamples, Tradeoff
from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS, holm, mcnemar, more_accurate, p_same, run_speedup
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS
from rmeeto_bench.records.run import Arm, Estimate

Correct = Mapping[str, NDArray[np.bool_]]


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
