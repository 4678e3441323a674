"""What the intervals allow to say: a table of cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sample_runs

from rmeeto_bench.records.run import Arm, Estimate
from rmeeto_bench.report.run.claims import fastest_within, where_it_pays

RS = (5, 10, 11, 20)  # ratios 0.14, 0.28, 0.31, 0.54


def arms(*speedups: float, half: float = 0.01, sessions: int = 6, verdict: str = "VALID") -> list[Arm]:
    """Merged arms at these speed-ups, each known to `half`."""
    rows = sample_runs.arms("cuda:x", "vim_small", dict.fromkeys((0, *RS[: len(speedups)]), 1.0))
    return [rows[0]] + [
        replace(row, speedup=Estimate(s, s - half, s + half), sessions=sessions, verdict=verdict)
        for row, s in zip(rows[1:], speedups)
    ]


SURE, UNSURE = Estimate(0.2, 0.19, 0.21), Estimate(0.2, 0.19, None)
CASES = {
    "everywhere": (arms(1.1, 1.2, 1.3, 1.5), None, "merging pays at all 4 ratios measured, 0.14, 0.28, 0.31, 0.54"),
    "nowhere": (arms(0.9, 0.8, 0.9, 0.7), None, "merging pays at none of the 4 ratios measured, 0.14, 0.28, 0.31, 0.54"),
    "from x on": (arms(0.9, 1.2, 1.3, 1.5), SURE, "merging pays from ratio 0.20 [0.19, 0.21] on, slower at ratio 0.14"),
    "from x on, no interval": (arms(0.9, 1.2, 1.3, 1.5), UNSURE, "merging pays from ratio 0.28 on, slower at ratio 0.14"),
    "from x on, before it unknown": (
        arms(1.001, 1.2, 1.3, 1.5),
        SURE,
        "merging pays from ratio 0.28 on, not resolved at ratio 0.14 (its speed is within -0.9 and +1.1 %)",
    ),
    "only between": (
        arms(0.9, 1.2, 1.3, 0.99, half=0.004),
        None,
        "merging pays only between ratio 0.28 and 0.31, slower at ratio 0.14, 0.54",
    ),
    "only at one": (arms(0.9, 0.9, 1.2, 0.9), None, "merging pays only at ratio 0.31, slower at ratio 0.14, 0.28, 0.54"),
    "in two places": (arms(1.2, 0.9, 1.2, 1.3), None, "merging pays at ratio 0.14, 0.31, 0.54, slower at ratio 0.28"),
    "then unknown": (
        arms(0.9, 1.2, 1.3, 1.0),
        None,
        "merging pays at ratio 0.28, 0.31, slower at ratio 0.14, not resolved at ratio 0.54"
        " (its speed is within -1.0 and +1.0 %)",
    ),
    "not resolved": (
        arms(1.001, 0.999, half=0.03),
        None,
        "no ratio is shown to be faster than no merging, not resolved at ratio 0.14, 0.28"
        " (its speed is within -3.1 and +3.1 %)",
    ),
    "one process": (arms(1.2, 1.3, sessions=1), None, "where merging pays is not resolved: that takes three processes or more"),
    "unsteady": (
        arms(1.2, 1.3, verdict="NOT_STEADY"),
        None,
        "no ratio is shown to be faster than no merging, not resolved at ratio 0.14, 0.28",
    ),
    "nothing": (arms(), None, ""),
}


@pytest.mark.parametrize("name", list(CASES))
def test_where_it_pays(name: str) -> None:
    rows, break_even, expected = CASES[name]
    assert where_it_pays(rows[1:], break_even) == expected


def test_the_ratio_that_pays_and_the_fastest_do_not_contradict_each_other() -> None:
    rows = [replace(row, delta_top1=Estimate(-0.2, -0.3, -0.1) if row.r else None) for row in arms(0.9, 0.9, 1.2, 0.9)]
    assert (
        fastest_within(rows)
        == "ratio 0.31 is the fastest within 1 point of the baseline, at 1.20x [1.19, 1.21] and -0.20 points"
    )
    assert where_it_pays(rows[1:]).startswith("merging pays only at ratio 0.31")


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (-0.90, "ratio 0.28 is the fastest within 1 point of the baseline"),
        (
            -0.99,
            "no ratio is shown to be faster than the baseline and within 1 point of its top-1, not resolved",
        ),  # of two tested
    ],
)
def test_within_a_point_is_said_of_what_is_shown_over_all_ratios_together(low: float, expected: str) -> None:
    rows = [replace(row, delta_top1=Estimate(-0.7, low, -0.5) if row.r else None) for row in arms(0.9, 1.2)]
    assert fastest_within(rows).startswith(expected)


def test_where_all_speedups_are_truly_one_a_ratio_is_named_in_at_most_one_run_in_twenty() -> None:
    generator, named = np.random.default_rng(9090), 0
    for _ in range(400):
        values = generator.normal(0, 0.004, (6, 4)) + generator.normal(0, 0.004, (6, 1))  # sessions share their baseline
        spread = values.std(0, ddof=1) / np.sqrt(6) * 2.571
        rows = [
            replace(row, speedup=Estimate(float(np.exp(m)), float(np.exp(m - h)), float(np.exp(m + h))))
            for row, m, h in zip(arms(1, 1, 1, 1)[1:], values.mean(0), spread)
        ]
        text = where_it_pays(rows)
        named += not text.startswith("no ratio is shown") or "slower" in text
    assert named / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
