"""What the intervals allow to say: a table of cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sample_runs

from rmeeto_bench.records.run import Arm, Estimate
from rmeeto_bench.report.run.claims import fastest_within, on_devices, where_it_pays

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


def test_what_is_as_fast_as_the_fastest_is_named_beside_it() -> None:
    rows = [replace(row, delta_top1=Estimate(-0.2, -0.3, -0.1) if row.r else None) for row in arms(0.9, 1.2, 1.21, 1.1)]
    beside = "ratio 0.31 is the fastest within 1 point of the baseline, at 1.21x [1.20, 1.22] and -0.20 points"
    assert fastest_within(rows) == f"{beside} (its interval overlaps that of ratio 0.28)"
    unknown = [replace(row, top1=None) for row in rows]
    assert fastest_within(unknown).startswith(
        "ratio 0.31 is the fastest at 1.21x [1.20, 1.22] (its interval overlaps that of ratio 0.28)"
    )


DEVICES = {
    "all": (
        [arms(0.9, 1.2), arms(0.9, 1.3)],
        "merging pays on both devices; the fastest ratio gives 1.20 to 1.30x, at ratio 0.28",
    ),
    "one of three": (
        [arms(0.9, 1.2), arms(0.9, 0.9), arms(1.001, 0.999, half=0.03)],
        "merging pays on 1 of 3 devices; the fastest ratio gives 1.20x, at ratio 0.28",
    ),
    "none": ([arms(0.9, 0.9), arms(0.9, 0.99)], "merging is not shown to pay on any of the 2 devices"),
    "one process": ([arms(1.2, sessions=1)] * 3, "where merging pays is not resolved: that takes three processes or more"),
    "r = 0": ([arms()] * 3, "no speed-up was measured on any device"),
}


@pytest.mark.parametrize("name", list(DEVICES))
def test_on_which_devices_it_pays(name: str) -> None:
    rows, expected = DEVICES[name]
    unknown = [[replace(row, top1=None, delta_top1=None) for row in device] for device in rows]
    assert on_devices({f"gpu {i}": device for i, device in enumerate(unknown)}) == expected


def test_on_devices_where_no_ratio_is_within_a_point_or_only_on_one() -> None:
    near = [replace(row, delta_top1=Estimate(-0.2, -0.3, -0.1) if row.r else None) for row in arms(0.9, 1.2)]
    far = [replace(row, delta_top1=Estimate(-3.0, -3.2, -2.8) if row.r else None) for row in arms(0.9, 1.3)]
    some = "merging pays on both devices; the fastest ratio within 1 point of top-1 gives 1.20x on 1 of them, at ratio 0.28"
    assert on_devices({"near": near, "far": far}) == some
    none = "merging pays on both devices, but no ratio is certain to stay within 1 point of top-1"
    assert on_devices({"far": far, "farther": far}) == none


def made(generator: np.random.Generator) -> list[Arm]:
    """Arms that are all truly as fast as their baseline, which the sessions share."""
    values = generator.normal(0, 0.004, (6, 4)) + generator.normal(0, 0.004, (6, 1))
    spread = values.std(0, ddof=1) / np.sqrt(6) * 2.571
    return [
        replace(row, speedup=Estimate(float(np.exp(m)), float(np.exp(m - h)), float(np.exp(m + h))))
        for row, m, h in zip(arms(1, 1, 1, 1)[1:], values.mean(0), spread)
    ]


def test_where_all_speedups_are_truly_one_a_ratio_or_device_is_named_in_at_most_one_run_in_twenty() -> None:
    generator, named = np.random.default_rng(9090), 0
    for _ in range(400):
        text = where_it_pays(made(generator))
        named += not text.startswith("no ratio is shown") or "slower" in text
    assert named / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    paying = [on_devices({str(i): made(generator) for i in range(6)}).startswith("merging pays") for _ in range(200)]
    assert np.mean(paying) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
