"""Break-even and images/s per point, with intervals."""

from __future__ import annotations

import numpy as np
import pytest

from rmeeto_bench import published as reference
from rmeeto_bench.bench.summary.tradeoff import ArmSamples, Tradeoff

RATIOS = (0.0, 0.14, 0.28, 0.54)


def samples(
    speedups: tuple[float, ...],
    *,
    seed: int = 0,
    sessions: int = 4,
    rounds: int = 12,
    noise: float = 0.002,
    process: float = 0.0,
    top1: tuple[float, ...] | None = None,
    images: int = 5000,
) -> list[ArmSamples]:
    """Arms at 100 images/s times these speed-ups, a drift common to all, and images that are hard or easy for all alike."""
    generator = np.random.default_rng(seed)
    difficulty = generator.random(images)
    drift = np.linspace(1, 1.08, rounds)
    found = []
    for ratio, speedup in zip(RATIOS, speedups):
        factor = np.exp(generator.normal(0, process, sessions))
        seconds = tuple(list(drift * f * np.exp(generator.normal(0, noise, rounds)) / 100 / speedup) for f in factor)
        correct = None if top1 is None else difficulty < top1[len(found)] / 100
        found.append(ArmSamples(ratio, seconds, correct))
    return found


def test_break_even_lies_between_the_arms_with_a_narrow_interval() -> None:
    found = Tradeoff(samples((1.0, 0.95, 1.1, 1.5))).break_even()
    assert found.value == pytest.approx(0.14 + 0.14 * 0.05 / 0.15, abs=0.003)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.01


@pytest.mark.parametrize(("sessions", "process"), [(3, 0.004), (6, 0.004)])
def test_the_interval_of_break_even_covers(sessions: int, process: float) -> None:
    """Also where sessions differ: then they are what is resampled, and a plain bootstrap of three would be far too narrow."""
    truth = 0.14 + 0.14 * 0.05 / 0.15
    covered = []
    for seed in range(60):
        arms = samples((1.0, 0.95, 1.1, 1.5), seed=seed, sessions=sessions, process=process)
        found = Tradeoff(arms, resamples=200).break_even()
        covered.append(found is not None and (found.low or 0) <= truth <= (found.high or 1))
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


def test_break_even_may_not_exist_or_not_be_certain() -> None:
    assert Tradeoff(samples((1.0, 0.9, 0.95, 0.99))).break_even() is None
    perhaps = Tradeoff(samples((1.0, 0.9, 0.95, 1.001), seed=1)).break_even()
    assert perhaps.low is not None
    assert perhaps.high is None
    always = Tradeoff(samples((1.0, 1.1, 1.2, 1.5))).break_even()
    assert (always.value, always.low, always.high) == (0.0, 0.0, 0.0)


def test_fewer_than_three_processes_give_no_interval() -> None:
    """A bootstrap of one process's rounds covers a break-even in one case of seven where processes differ by 0.4 %."""
    for sessions in (1, 2):
        tradeoff = Tradeoff(samples((1.0, 0.95, 1.1, 1.5), sessions=sessions, top1=(80.0, 79.0, 78.0, 75.0)))
        for found in (tradeoff.break_even(), tradeoff.images_per_second_per_point(3)):
            assert (found.low, found.high) == (None, None)


def test_images_per_second_per_point_and_its_interval_cover() -> None:
    covered = []
    for seed in range(60):
        arms = samples((1.0, 0.95, 1.2, 1.5), seed=seed, top1=(80.0, 79.0, 78.0, 75.0))
        found = Tradeoff(arms, resamples=200).images_per_second_per_point(3)
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= 100 / np.exp(np.log(np.linspace(1, 1.08, 12)).mean()) * 0.5 / 5 <= found.high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


def test_a_loss_that_may_be_none_has_no_upper_end_and_no_loss_no_value() -> None:
    arms = samples((1.0, 0.95, 1.2, 1.5), top1=(80.0, 80.5, 79.96, 75.0))
    assert Tradeoff(arms).images_per_second_per_point(1) is None
    unsure = Tradeoff(arms).images_per_second_per_point(2)
    assert unsure.high is None
    assert Tradeoff(samples((1.0, 0.95, 1.2, 1.5))).images_per_second_per_point(2) is None


@pytest.mark.parametrize("gpu", ["A4000", "V100", "A100", "RTX 4090", "H100"])
def test_the_papers_printed_figures_follow_from_its_table_12(gpu: str) -> None:
    """36.5, 76.8, 104.5, 178.3 and 123 images/s per point, from the throughputs and accuracies at 0 and 0.54."""
    printed = {row.setting_value: row.value for row in reference.rows() if row.metric == "im_per_s_gained_per_1pp_acc"}
    arms = []
    for ratio, r in ((0.0, 0), (0.54, 20)):
        row, top1 = reference.throughput("vim_small", gpu, r), reference.top1("vim_small", r)
        assert top1 is not None
        right = np.arange(1000) < round(10 * top1)
        arms.append(ArmSamples(ratio, ([1 / row["images_per_second"]] * 4,), right))
    found = Tradeoff(arms).images_per_second_per_point(1)
    assert found.value == pytest.approx(printed[gpu], abs=0.3)


def test_resampling_follows_its_seed() -> None:
    arms = samples((1.0, 0.95, 1.1, 1.5))
    assert Tradeoff(arms, seed=1).break_even() == Tradeoff(arms, seed=1).break_even() != Tradeoff(arms, seed=2).break_even()
