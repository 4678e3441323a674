"""Statistics on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rmeeto_bench.measure.statistics import (
    as_asked,
    break_even,
    half_width,
    hodges_lehmann,
    holm,
    mcnemar,
    paired_delta,
    paired_speedup,
    rate,
    run_estimate,
    run_rate,
    run_speedup,
    t_interval,
    wilcoxon_interval,
    wilson,
)
from rmeeto_bench.records.run import Estimate

SEEDS = 600


def simulated_rounds(seed: int, rounds: int = 12, drift: float = 0.08, ratio: float = 1.07) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and arm seconds per image under a common drift, small independent noise and rare slow blocks."""
    generator = np.random.default_rng(seed)
    common = 1 + drift * np.linspace(0, 1, rounds)
    noise = np.exp(generator.normal(0, 0.002, (2, rounds)))
    slow = 1 + 0.05 * (generator.random((2, rounds)) < 0.02)
    baseline, arm = common * noise * slow
    return baseline, arm / ratio


def test_paired_speedup_is_unbiased_and_covers_under_drift() -> None:
    estimates = [paired_speedup(*simulated_rounds(seed)) for seed in range(SEEDS)]
    assert abs(np.mean([e.value for e in estimates]) / 1.07 - 1) < 5e-4
    covered = np.mean([e.low <= 1.07 <= e.high for e in estimates])
    assert 0.93 <= covered <= 0.975


def test_unpaired_analysis_of_the_same_rounds_would_be_far_wider() -> None:
    """Guards the test above: without pairing the drift lands in the interval."""
    baseline, arm = simulated_rounds(0)
    unpaired = t_interval(np.log(baseline)).high - t_interval(np.log(baseline)).low
    paired = paired_speedup(baseline, arm)
    assert unpaired > 5 * np.log(paired.high / paired.low)


@pytest.mark.parametrize("n", [6, 8, 12, 20, 40])
def test_wilcoxon_interval_inverts_the_signed_rank_test(n: int) -> None:
    """Just inside the interval the exact test does not reject at 5 %, just outside it does."""
    x = np.random.default_rng(n).normal(0.3, 1, n)
    interval = wilcoxon_interval(x)
    width = interval.high - interval.low
    for edge, outward in ((interval.low, -1), (interval.high, 1)):
        outside, inside = edge + outward * 1e-6 * width, edge - outward * 1e-6 * width
        assert stats.wilcoxon(x - outside, method="exact").pvalue <= 0.05 < stats.wilcoxon(x - inside, method="exact").pvalue


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_hodges_lehmann_lies_within_the_data_and_moves_with_it(values: list[float]) -> None:
    centre = hodges_lehmann(values)
    assert min(values) <= centre <= max(values)
    assert hodges_lehmann([v + 7 for v in values]) == pytest.approx(centre + 7, abs=1e-9)


def test_few_rounds_fall_back_to_student_and_one_has_no_interval() -> None:
    x = [1.0, 2.0, 3.0, 4.0]
    assert wilcoxon_interval(x).low == t_interval(x).low
    assert wilcoxon_interval([1.0]).low is None
    assert half_width(wilcoxon_interval([1.0])) == float("inf")


def test_rate_is_the_inverse_of_seconds_per_image() -> None:
    estimate = rate([0.01] * 8)
    assert estimate.value == pytest.approx(100)
    assert estimate.low == pytest.approx(100)


def test_wilson_matches_the_textbook() -> None:
    estimate = wilson(81, 263)  # Wilson's interval for 81 of 263 (Newcombe 1998): 0.2553 to 0.3662
    assert (estimate.low, estimate.high) == (pytest.approx(25.53, abs=0.01), pytest.approx(36.62, abs=0.01))


def test_paired_delta_counts_only_discordant_images() -> None:
    baseline = np.array([1] * 90 + [0] * 10, bool)
    arm = baseline.copy()
    arm[:4] = False  # loses four
    arm[95] = True  # gains one
    estimate = paired_delta(baseline, arm)
    assert estimate.value == pytest.approx(-3.0)
    assert estimate.low < -3 < estimate.high
    assert mcnemar(baseline, arm) == pytest.approx(2 * (stats.binom.cdf(1, 5, 0.5) - 0.5 * stats.binom.pmf(1, 5, 0.5)))
    assert mcnemar(baseline, baseline) == 1.0


def test_paired_delta_covers() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(500):
        u = generator.random(2000)
        baseline, arm = u < 0.80, (u < 0.77) | (u > 0.99)  # true difference: -3 + 1 points
        estimate = paired_delta(baseline, arm)
        covered.append(estimate.low <= -2.0 <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    ("ratios", "speedups", "expected"),
    [
        ([0, 0.14, 0.28], [1, 0.9, 1.1], 0.21),
        ([0, 0.14, 0.28], [1, 1.1, 1.2], 0.0),
        ([0, 0.14], [1, 0.9], None),
        ([], [], None),
    ],
)
def test_break_even(ratios: list[float], speedups: list[float], expected: float | None) -> None:
    found = break_even(ratios, speedups)
    assert found == (expected if not expected else pytest.approx(expected))


def test_break_even_of_the_papers_rtx_3090() -> None:
    assert break_even([0, 0.14, 0.28], [1, 706 / 739, 825 / 739]) == pytest.approx(0.18, abs=0.01)


def test_one_session_is_wilcoxons_and_three_are_students() -> None:
    generator = np.random.default_rng(0)
    sessions = [generator.normal(0.3, 1, 12) + offset for offset in (0.0, 1.0, 5.0)]
    assert run_estimate(sessions[:1]) == wilcoxon_interval(sessions[0])
    student = t_interval([hodges_lehmann(x) for x in sessions])
    assert run_estimate(sessions).low == pytest.approx(student.low)
    assert run_estimate(sessions).high == pytest.approx(student.high)
    two = run_estimate(sessions[:2])
    assert two.value == pytest.approx((hodges_lehmann(sessions[0]) + hodges_lehmann(sessions[1])) / 2)
    pooled = wilcoxon_interval(np.concatenate(sessions[:2]))
    assert (two.low, two.high) == (pooled.low, pooled.high)


def test_the_interval_of_two_unequal_sessions_holds_its_estimate() -> None:
    found = run_estimate([[0.0, 0.1] * 3, [10.0, 10.1] * 20])
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high


def test_sessions_without_rounds_do_not_count_and_a_run_of_none_is_an_error() -> None:
    assert run_estimate([[], [1.0, 1.2, 1.1]]) == run_estimate([[1.0, 1.2, 1.1]])
    with pytest.raises(ValueError, match="without rounds"):
        run_estimate([[], []])
    assert run_estimate([[1.0]]).low is None


def test_a_run_of_one_session_agrees_with_its_rounds() -> None:
    baseline, arm = simulated_rounds(1)
    assert run_speedup([baseline], [arm]) == paired_speedup(baseline, arm)
    assert run_rate([baseline]) == rate(baseline)


def test_holm_on_the_textbook_example_and_its_properties() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm (1979), also R's p.adjust
    assert holm([]) == []
    assert holm([0.7, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_nor_changes_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_sessions_that_agree_by_luck_are_no_narrower_than_their_rounds_allow() -> None:
    """Of the narrowest tenth of three-session intervals 0.63 cover without the floor."""
    generator = np.random.default_rng(90211)
    found = [run_estimate(list(generator.normal(0, 0.003, (3, 8)))) for _ in range(3000)]
    narrow = sorted(found, key=lambda e: e.high - e.low)[:300]
    assert np.mean([e.low <= 0 <= e.high for e in narrow]) >= 0.85


def test_a_difference_of_accuracies_stays_in_range_and_covers_at_the_edge() -> None:
    every = paired_delta(np.zeros(3, bool), np.ones(3, bool))
    assert (every.value, every.high) == (100.0, 100.0)
    generator = np.random.default_rng(77123)
    covered = []
    for lost in generator.binomial(2000, 0.002, 300):
        found = paired_delta(np.ones(2000, bool), np.arange(2000) >= lost)
        covered.append(found.low <= -0.2 <= found.high)
    assert 0.93 - 3 * 0.0147 <= np.mean(covered) <= 1


@pytest.mark.parametrize("total", [20, 200, 2000])
def test_the_interval_of_a_proportion_stays_in_range_and_covers_at_the_edge(total: int) -> None:
    """Exactly, over every count that can come: Wilson's own interval covers 0.84 where two in a thousand are wrong."""
    counts = np.arange(total + 1)
    found = [wilson(int(count), total) for count in counts[-40:]] + [wilson(int(count), total) for count in counts[:40]]
    assert all(0 <= e.low <= e.value <= e.high <= 100 for e in found)
    last = counts[-40:]
    lows, highs = (np.array([getattr(e, end) for e in found[: len(last)]]) / 100 for end in ("low", "high"))
    for wrong in (0.05, 0.1, 0.18, 0.3, 1.0, 2.0, 3.0, 5.0):  # images, on average
        truth = 1 - wrong / total
        chances = stats.binom.pmf(last, total, truth)
        assert chances[(lows <= truth) & (truth <= highs)].sum() >= 0.9, wrong


ASKED = 0.01
CASES = {  # half-width of the row, of the others, sessions -> the printed one
    "far from what is asked for": (0.002, (0.003, 0.004), 6, 0.002),
    "near it, as the run is": (0.008, (0.007, 0.009), 6, ASKED),
    "near it by itself alone": (0.008, (0.004, 0.005), 6, 0.008),
    "the only row, at half of it": (0.0051, (), 6, ASKED),
    "the only row, below that": (0.0049, (), 6, 0.0049),
    "lucky beside the others": (0.004, (0.008, 0.009), 6, ASKED),
    "far narrower than the others": (0.003, (0.008, 0.009), 6, 0.003),
    "wider than asked for": (0.011, (0.009, 0.009), 6, 0.011),
    "too few processes": (0.008, (0.007, 0.009), 2, 0.008),
}


@pytest.mark.parametrize("name", list(CASES))
def test_an_interval_nearly_as_wide_as_asked_for_is_printed_as_wide(name: str) -> None:
    width, others, sessions, printed = CASES[name]
    factor = float(np.exp(np.arcsinh(width)))
    own = Estimate(1.2, 1.2 / factor, 1.2 * factor)
    found = as_asked(own, [width, *others], ASKED, sessions)
    assert half_width(found) == pytest.approx(printed, rel=1e-9)
    assert found.value == own.value
    assert printed == ASKED or found is own
