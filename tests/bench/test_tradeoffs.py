"""Rows get the break-even ratio, the price of a point and p-values, and a report says them in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sample_runs
from scipy import stats

from rmeeto_bench.bench.summary.tradeoff import with_beaten, with_tradeoffs
from rmeeto_bench.records.run import DeviceRecord, from_json, to_json
from rmeeto_bench.report.run.summary import sentences

RATES = {0: 1000.0, 5: 940.0, 11: 1100.0, 20: 1500.0}
GPU = DeviceRecord("cuda:x", "Some GPU", "cuda")


def rows_and_samples(images: int = 2000):
    rows = list(sample_runs.arms("cuda:x", "vim_small", RATES))
    generator = np.random.default_rng(0)
    drift = 1 + 0.05 * np.arange(12) / 12
    sessions = [
        {row.arm: list(drift / RATES[row.r] * np.exp(generator.normal(0, 0.002, 12))) for row in rows} for _ in range(3)
    ]
    right = generator.random(images) < 0.8
    correct = {}
    for row, flips in zip(rows, (0, 0, 60, 200), strict=True):
        values = right.copy()
        values[np.flatnonzero(right)[:flips]] = False
        correct[row.arm] = values
    return rows, sessions, correct


def test_every_row_says_what_it_trades() -> None:
    rows, sessions, correct = rows_and_samples()
    found = with_tradeoffs(rows, sessions, correct, 0)
    first, slower, middle, fast = found
    # by hand: ratios .1396 at 0.94 and .3071 at 1.10 cross 1 at .1396 + .06/.16 * .1675
    assert first.break_even is not None
    assert first.break_even.value == pytest.approx(0.2024, abs=0.005)
    assert first.break_even.low < 0.2024 < first.break_even.high
    assert slower.beaten_p == 1.0  # as accurate as the baseline, not less
    assert (first.beaten_p, middle.beaten_p, fast.beaten_p) == (1.0, 1.0, 1.0)
    assert fast.images_per_second_per_point is not None
    assert fast.images_per_second_per_point.value == pytest.approx(500 / 10, rel=0.05)
    assert slower.top1_p == 1.0
    assert middle.top1_p == pytest.approx(2 * 0.5 * stats.binom.pmf(0, 60, 0.5) * 2)  # mid-p of 0 of 60, twice by Holm
    assert fast.top1_p < middle.top1_p


def test_without_accuracy_only_the_break_even_is_known() -> None:
    rows, sessions, _ = rows_and_samples()
    found = with_tradeoffs(rows, sessions, {}, 0)
    assert found[0].break_even is not None
    assert all(row.beaten_p is None and row.top1_p is None and row.images_per_second_per_point is None for row in found)


def test_too_few_rounds_change_nothing() -> None:
    rows, sessions, _ = rows_and_samples()
    few = [replace(row, rounds=2) for row in rows]
    assert with_tradeoffs(few, sessions, {}, 0) == few


def test_a_report_says_it_in_words() -> None:
    rows, sessions, correct = rows_and_samples()
    correct[rows[1].arm] = correct[rows[2].arm].copy()  # the slower arm now loses more than the faster one after it
    correct[rows[1].arm][np.flatnonzero(correct[rows[1].arm])[:80]] = False
    record = sample_runs.record((GPU,), tuple(with_tradeoffs(rows, sessions, correct, 0)))
    text = "\n".join(sentences(from_json(to_json(record))))
    assert "merging pays from ratio 0.20 [0." in text
    assert "another ratio is both faster and more accurate: ratio 0.14" in text


def test_what_mcnemar_does_not_prove_is_said_with_its_interval() -> None:
    rows, sessions, correct = rows_and_samples()
    found = [replace(row, delta_top1=row.delta_top1 and replace(row.delta_top1, low=-0.2, high=0.3)) for row in rows]
    text = "\n".join(sentences(sample_runs.record((GPU,), tuple(with_tradeoffs(found, sessions, correct, 0)))))
    proof = (
        "top-1 at ratio 0.14: no change is proven (McNemar, Holm over the ratios); its interval alone is [-0.20, +0.30] points"
    )
    assert proof in text


def test_equal_rivals_seldom_beat_each_other() -> None:
    """Every arm is truly as fast and as accurate as every other; a sentence names one of them in at most 5 % of runs."""
    generator, beaten = np.random.default_rng(404), 0
    rows = list(sample_runs.arms("cuda:x", "vim_small", dict.fromkeys((0, 5, 11, 20), 1000.0)))
    for _ in range(60):
        sessions = [
            {row.arm: list(np.exp(shift + generator.normal(0, 0.002, 6))) for row, shift in zip(rows, shifts)}
            for shifts in generator.normal(0, 0.004, (4, len(rows)))
        ]
        hard = generator.random(1000)
        correct = {row.arm: np.abs(hard + generator.normal(0, 0.05, 1000)) < 0.8 for row in rows}
        beaten += any((row.beaten_p or 0.0) < 0.05 for row in with_beaten(rows, sessions, correct))
    assert beaten <= 0.05 * 60 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_an_arm_that_is_slower_and_loses_more_is_beaten() -> None:
    rows, sessions, correct = rows_and_samples()
    correct[rows[1].arm] = correct[rows[2].arm] & (np.arange(2000) % 12 > 0)
    assert [row.beaten_p < 0.05 for row in with_beaten(rows, sessions, correct)] == [False, True, False, False]
    assert all(row.beaten_p is None for row in with_beaten(rows, sessions[:2], correct))  # two processes claim nothing
