"""What the measuring as a whole must hold: unbiased, honest intervals, through the real loop on the simulated device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.rounds import DEFAULT, TimedArm, TimingProtocol, Watch, measure
from rmeeto_bench.measure.statistics import (
    complete_rounds,
    hodges_lehmann,
    paired_speedup,
    run_speedup,
    t_interval,
    wilcoxon_interval,
)
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block, Estimate

pytestmark = pytest.mark.slow

PROFILE = next(profile for profile in load_profiles() if profile.name == "rtx4090")
TRUTH = 1.07
# The published comparison does not give the size of its outliers; at 3 % its table comes out as printed.
NOISE = Scenario(ar_sd=0.004, ar_rho=0.9, idiosyncratic_sd=0.002, outlier_share=0.02, outlier_size=0.03)
ADAPTIVE = replace(DEFAULT, min_rounds=12, max_rounds=40, time_limit=240.0, target=0.0025)  # stops when precise
Rounds = dict[str, list[float]]


def session(seed: int, scenario: Scenario, protocol: TimingProtocol = ADAPTIVE, arms: int = 2, number: int = 0) -> Rounds:
    """Seconds per image of the rounds that count: arm0 is the baseline, the others are truly 1.07 times faster."""
    device = SimDevice(PROFILE, seed=seed, session=number, scenario=scenario)
    timed = [TimedArm("arm0", device.step("arm0", 0.1), 128)]
    timed += [TimedArm(f"arm{i}", device.step(f"arm{i}", 0.1 / TRUTH), 128) for i in range(1, arms)]
    blocks: list[Block] = []
    measure(device, timed, "arm0", replace(protocol, seed=seed), Watch(blocks.append), session=number)
    return complete_rounds(blocks, [arm.name for arm in timed])[0]


def covers(estimate: Estimate, truth: float = TRUTH) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def unpaired(rounds: Rounds) -> Estimate:
    """Welch's interval of the same blocks as if the arms had nothing to do with each other."""
    first, second = np.log(rounds["arm0"]), np.log(rounds["arm1"])
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return Estimate(float(np.exp(first.mean() - second.mean())), float(np.exp(found.low)), float(np.exp(found.high)))


def in_sequence(rounds: Rounds) -> Estimate:
    """The same blocks as if the first half of the session had measured the baseline and the second the arm."""
    half = len(rounds["arm0"]) // 2
    return unpaired({"arm0": rounds["arm0"][:half], "arm1": rounds["arm1"][half:]})


def passes(estimates: list[Estimate]) -> bool:
    """The acceptance check: bias below 0.05 %, coverage of the 95 % interval within [0.93, 0.97]."""
    bias = np.mean([estimate.value for estimate in estimates]) / TRUTH - 1
    coverage = np.mean([covers(estimate) for estimate in estimates])
    print(f"bias {100 * bias:+.4f} %, coverage {coverage:.4f}")
    return bool(abs(bias) < 5e-4 and 0.93 <= coverage <= 0.97)


def test_drift_of_8_percent_biases_nothing_and_intervals_cover_under_the_stopping_rule() -> None:
    """The same blocks analysed without pairing fail this very check: it can fail."""
    drifting = replace(NOISE, drift=0.08, drift_seconds=100.0)
    rounds = [session(seed, drifting) for seed in range(1000)]
    assert len({len(found["arm0"]) for found in rounds}) > 3  # the stopping rule was at work
    assert passes([paired_speedup(found["arm0"], found["arm1"]) for found in rounds])
    assert not passes([unpaired(found) for found in rounds])
    assert not passes([in_sequence(found) for found in rounds])


def test_rejection_removes_the_bias_of_a_throttling_baseline() -> None:
    scenario = replace(NOISE, throttle_share=0.15, throttle_depth=0.12, throttle_detected=0.9, throttle_arms=("arm0",))
    fixed = replace(DEFAULT, min_rounds=24, max_rounds=24, max_rejected=100, time_limit=1e6)
    dropped = [session(seed, scenario, fixed) for seed in range(500)]
    kept = [session(seed, scenario, replace(fixed, reject=())) for seed in range(500)]
    values = np.array([paired_speedup(found["arm0"], found["arm1"]).value for found in dropped])
    mean_kept = np.array([np.exp(np.mean(np.log(f["arm0"]) - np.log(f["arm1"]))) for f in kept])
    print(f"bias {100 * (values.mean() / TRUTH - 1):+.4f} %, of a mean {100 * (mean_kept.mean() / TRUTH - 1):+.4f} %")
    assert abs(values.mean() / TRUTH - 1) <= 5e-4
    assert mean_kept.mean() / TRUTH - 1 > 0.01  # what a plain mean without rejection would claim


def test_sessions_are_the_replicates_where_processes_differ() -> None:
    """With a spread between processes the pooled interval of three sessions is a delusion, Student's over them is not."""
    scenario = replace(NOISE, process_sd=0.004)
    fixed = replace(DEFAULT, min_rounds=12, max_rounds=12)
    runs = [[session(seed, scenario, fixed, number=k) for k in range(3)] for seed in range(400)]
    honest = [run_speedup([s["arm0"] for s in run], [s["arm1"] for s in run]) for run in runs]
    pooled = [paired_speedup(*(np.concatenate([s[arm] for s in run]) for arm in ("arm0", "arm1"))) for run in runs]
    assert 0.93 <= np.mean([covers(estimate) for estimate in honest]) <= 0.97
    assert np.mean([covers(estimate) for estimate in pooled]) < 0.7


def percentile_bootstrap(x: NDArray[np.float64], generator: np.random.Generator) -> Estimate:
    means = x[generator.integers(0, len(x), (500, len(x)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high))


def bca(x: NDArray[np.float64], generator: np.random.Generator) -> Estimate:
    found = stats.bootstrap((x,), np.mean, n_resamples=500, method="BCa", random_state=generator).confidence_interval
    return Estimate(float(x.mean()), float(found.low), float(found.high))


@pytest.fixture(scope="module")
def differences() -> NDArray[np.float64]:
    """Paired log-ratios [seeds, 40] of six arms, 3 % drift and the noise of the published comparison of intervals."""
    fixed = replace(DEFAULT, min_rounds=40, max_rounds=40, time_limit=1e6)
    drifting = replace(NOISE, drift=0.03, drift_seconds=280.0)
    found = [session(seed, drifting, fixed, arms=6) for seed in range(600)]
    return np.array([np.log(rounds["arm0"]) - np.log(rounds["arm3"]) for rounds in found])


TABLE = {  # coverage of nominal 95 % intervals at n rounds, from the simulations this protocol was chosen by
    "t": {8: 0.966, 12: 0.970, 24: 0.960, 40: 0.959},
    "wilcoxon": {8: 0.948, 12: 0.955, 24: 0.946, 40: 0.950},
    "percentile": {8: 0.889, 12: 0.917, 24: 0.921, 40: 0.933},
}


@pytest.mark.parametrize("rounds", [8, 12, 24, 40])
def test_coverage_of_the_intervals_to_choose_from(differences: NDArray[np.float64], rounds: int) -> None:
    generator = np.random.default_rng(rounds)
    truth = float(np.log(TRUTH))
    data = differences[:, :rounds]
    coverage = {
        "t": np.mean([covers(t_interval(x), truth) for x in data]),
        "wilcoxon": np.mean([covers(wilcoxon_interval(x), truth) for x in data]),
        "percentile": np.mean([covers(percentile_bootstrap(x, generator), truth) for x in data]),
        "bca": np.mean([covers(bca(x, generator), truth) for x in data[:300]]),
    }
    print(rounds, {name: round(float(value), 3) for name, value in coverage.items()})
    assert 0.93 <= coverage["wilcoxon"] <= 0.97
    assert coverage["t"] >= 0.94
    assert coverage["percentile"] < coverage["t"]
    for name, table in TABLE.items():
        assert coverage[name] == pytest.approx(table[rounds], abs=0.045), name
    assert coverage["bca"] < 0.93  # it covers too little; 300 sessions give 0.81 to 0.89


def test_the_estimate_is_robust_where_a_mean_is_not(differences: NDArray[np.float64]) -> None:
    robust = np.std([hodges_lehmann(x[:12]) for x in differences])
    assert robust < 0.8 * np.std(differences[:, :12].mean(axis=1))
