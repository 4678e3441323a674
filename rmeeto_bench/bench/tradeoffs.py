"""What speed and accuracy say together about the arms of one model on one device, added to their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.summary.tradeoff import ArmSamples, Tradeoff
from rmeeto_bench.measure.statistics import holm, mcnemar
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS
from rmeeto_bench.records.run import Arm

Correct = Mapping[str, NDArray[np.bool_]]


def with_tradeoffs(
    rows: Sequence[Arm], sessions: Sequence[Mapping[str, list[float]]], correct: Correct, seed: int
) -> list[Arm]:
    """The rows with break-even, Pareto front, price per point and McNemar's p-values; the first row is the baseline.

    sessions: seconds per image of each arm by session and round · correct: right or wrong by image, for evaluated arms.
    """
    return _with_p_values(_with_front(list(rows), sessions, correct, seed), correct)


def _with_front(rows: list[Arm], sessions: Sequence[Mapping[str, list[float]]], correct: Correct, seed: int) -> list[Arm]:
    timed = [row for row in rows if row.rounds >= FEWEST_ROUNDS]
    if len(timed) < 2 or timed[0] is not rows[0]:
        return rows
    samples = [
        ArmSamples(row.reduction_ratio, tuple(session[row.arm] for session in sessions), correct.get(row.arm)) for row in timed
    ]
    tradeoff = Tradeoff(samples, seed=seed)
    front = tradeoff.pareto_front()
    found = {}
    for index, row in enumerate(timed):
        price = tradeoff.images_per_second_per_point(index) if index else None
        share = None if front is None else front[index].confidence
        found[row.arm] = replace(row, images_per_second_per_point=price, front_share=share)
    found[rows[0].arm] = replace(found[rows[0].arm], break_even=tradeoff.break_even())
    return [found.get(row.arm, row) for row in rows]


def _with_p_values(rows: list[Arm], correct: Correct) -> list[Arm]:
    first = correct.get(rows[0].arm)
    tested = [row.arm for row in rows[1:] if row.arm in correct]
    if first is None or not tested:
        return rows
    p_values = dict(zip(tested, holm([mcnemar(first, correct[arm]) for arm in tested]), strict=True))
    return [replace(row, top1_p=p_values.get(row.arm)) for row in rows]
