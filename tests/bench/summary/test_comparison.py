"""The comparison's numbers against exact references, computed here in whole numbers."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmeeto_bench.bench.store.predictions import Results
from rmeeto_bench.bench.summary.accuracy import calibration_error
from rmeeto_bench.bench.summary.class_changes import class_changes, shrunk_changes
from rmeeto_bench.measure.statistics import holm, mcnemar


def exact_mid_p(gained: int, lost: int) -> float:
    """Two-sided mid-p of McNemar's exact test by summing the binomial distribution in rational numbers."""
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    tail = Fraction(sum(comb(n, i) for i in range(k)), 2**n) + Fraction(comb(n, k), 2 * 2**n)
    return float(min(Fraction(1), 2 * tail))


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([True, True, False, False], [both, lost, gained, neither])
    after = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return before, after


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_sum(gained: int, lost: int) -> None:
    assert mcnemar(*outcomes(10, lost, gained, 3)) == pytest.approx(exact_mid_p(gained, lost), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] * (len(p_values) - rank) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_calibration_error_of_known_cases() -> None:
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([0.8] * 10, [True] * 8 + [False] * 2) == pytest.approx(0, abs=1e-9)
    assert calibration_error([0.9] * 10, [True] * 5 + [False] * 5) == pytest.approx(40)
    assert calibration_error([0.95, 0.35], [False, True]) == pytest.approx(100 * (0.95 + 0.65) / 2)
    assert calibration_error([], []) == 0


def test_class_changes_add_up_and_the_worst_come_first() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 6, 500)
    best = {
        name: np.where(generator.random(500) < share, labels, 7)[:, None].repeat(5, 1)
        for name, share in (("a", 0.9), ("b", 0.7))
    }
    results = Results(labels, {k: v.astype(np.int16) for k, v in best.items()}, {k: np.zeros(500, np.float16) for k in best})
    changes = class_changes(results, "a", "b")
    assert sum(change.images for change in changes) == 500
    assert sum(change.correct for change in changes) == int(results.correct("b").sum())
    assert [change.shrunk.value for change in changes] == sorted(change.shrunk.value for change in changes)
    for change in changes:
        own = labels == change.label
        assert change.delta.value == pytest.approx(100 * (results.correct("b")[own].mean() - results.correct("a")[own].mean()))


@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_the_classes_that_lose_most_are_shown_as_they_truly_are(spread: float) -> None:
    """1,000 classes of 50 images; truly all lose a point, or differ by 3. Their own estimates would show ten times that."""
    generator, covered, shown, raw = np.random.default_rng(606), [], [], []
    for _ in range(20):
        truth = np.clip(generator.normal(-0.01, spread, 1000), -0.2, 0.2)
        counts = np.array([generator.multinomial(50, [0.06 + max(t, 0), 0.06 + max(-t, 0), 0.88 - abs(t)]) for t in truth])
        found = shrunk_changes(counts[:, 0], counts[:, 1], np.full(1000, 50))
        for i in sorted(range(1000), key=lambda i: found[i].value)[:15]:
            covered.append(found[i].low <= 100 * truth[i] <= found[i].high)
            shown.append(found[i].value - 100 * truth[i])
        raw += sorted(100 * (counts[:, 0] - counts[:, 1]) / 50)[:15]
    assert np.mean(raw) < -8
    assert abs(np.mean(shown)) < 1.0
    assert np.mean(covered) >= 0.93 - 3 * np.sqrt(0.95 * 0.05 / 20)  # the fifteen of a run are right or wrong together


def test_where_no_answer_changed_the_classes_keep_the_width_that_so_few_images_allow() -> None:
    """None of 12 changed: at 95 % a quarter of them may, and of 1,000 not one in a hundred."""
    for images, least, most in ((12, 20.0, 40.0), (1000, 0.1, 1.0)):
        found = shrunk_changes(np.zeros(4), np.zeros(4), np.full(4, images / 4))
        assert all(change.value == 0 for change in found)
        assert all(least < change.high - change.low < 2 * most for change in found)
