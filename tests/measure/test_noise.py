"""What calibrating finds out on a device whose noise is known, and the profiles it keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rmeeto_bench.compare.noise import (
    ARM,
    TWIN,
    UNOBSERVED,
    Noise,
    NoiseProfile,
    estimate_noise,
    load_noise_profile,
    noise_folder,
    save_noise_profile,
    smallest_effect,
)
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.rounds import DEFAULT, TimedArm, Watch, measure
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block, Estimate

PROFILE = next(profile for profile in load_profiles() if profile.name == "rtx4090")


def calibrated(scenario: Scenario, sessions: int, rounds: int = 12, seed: int = 3) -> Noise:
    blocks: list[Block] = []
    protocol = DEFAULT.__class__(**{**DEFAULT.__dict__, "min_rounds": rounds, "max_rounds": rounds, "seed": seed})
    for number in range(sessions):
        device = SimDevice(PROFILE, seed=seed, session=number, scenario=scenario)
        first, second = device.step(ARM, 0.1), device.step(TWIN, 0.1)
        arms = [TimedArm(ARM, first, 128), TimedArm(TWIN, second, 128), TimedArm(UNOBSERVED, first, 128, observed=False)]
        measure(device, arms, ARM, protocol, Watch(blocks.append), session=number)
    return estimate_noise(blocks)


@pytest.mark.slow
def test_calibrating_recovers_what_the_simulation_was_told() -> None:
    scenario = Scenario(
        process_sd=0.004, idiosyncratic_sd=0.002, ar_sd=0.0, drift=0.06, drift_seconds=600.0, telemetry_cost=0.005
    )
    noise = calibrated(scenario, sessions=120)
    assert noise.sessions == 120
    assert noise.within_sd == pytest.approx(0.002, rel=0.2)
    assert noise.between_sd == pytest.approx(0.004, rel=0.2)
    assert noise.rate_sd == pytest.approx(0.004, rel=0.2)
    assert noise.drift == pytest.approx(0.06 / 10 / 1.006, rel=0.2)  # of a device that is already a little slower
    assert noise.telemetry_cost.value == pytest.approx(0.005, rel=0.2)
    assert noise.smallest_speedup_effect == pytest.approx(smallest_effect(np.sqrt(2) * 0.004), rel=0.2)


@pytest.mark.slow
def test_slow_noise_between_neighbours_counts_within_rounds_and_outliers_do_not() -> None:
    scenario = Scenario(idiosyncratic_sd=0.002, ar_sd=0.004, ar_rho=0.9, outlier_share=0.02)
    neighbours = np.sqrt(0.002**2 + 0.004**2 * (1 - (2 * 0.9 + 0.9**2) / 3))  # two of three positions: 1, 1 or 2 apart
    assert calibrated(scenario, sessions=60).within_sd == pytest.approx(neighbours, rel=0.2)


def test_a_quiet_device_shows_no_process_effect_and_free_telemetry() -> None:
    noise = calibrated(Scenario(), sessions=20)
    assert noise.between_sd < 0.0004
    assert abs(noise.drift) < 0.005
    assert noise.telemetry_cost.low is not None
    assert noise.telemetry_cost.high is not None
    assert noise.telemetry_cost.low < 0 < noise.telemetry_cost.high


def test_the_smallest_effect_is_found_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(0)
    effect = smallest_effect(0.01, 5)
    first, second = generator.normal(0, 0.01, (4000, 5)), generator.normal(effect, 0.01, (4000, 5))
    found = stats.ttest_ind(first, second, axis=1, alternative="less").pvalue < 0.05
    assert found.mean() == pytest.approx(0.95, abs=0.02)


def test_too_little_is_an_error_that_says_what_was_dropped() -> None:
    with pytest.raises(MeasurementError, match="two processes with six complete rounds; let the machine idle"):
        calibrated(Scenario(), sessions=1)
    with pytest.raises(MeasurementError, match=r"rounds \(dropped: CONTENDED: other processes on the GPU: 4242\)"):
        calibrated(Scenario(contended_share=1.0), sessions=2)


NOISE = Noise(5, 60, 0.002, 0.004, 0.005, 0.001, 0.01, 0.02, Estimate(0.0001, -0.0002, 0.0004))
STORED = NoiseProfile("cuda:ab-12/../x", "A GPU", "2026-01-01T00:00:00Z", "0.1.0", NOISE)


def test_a_profile_is_read_back_by_its_device(tmp_path: Path) -> None:
    path = save_noise_profile(STORED, tmp_path)
    assert path.parent == tmp_path
    assert load_noise_profile(STORED.device_id, tmp_path) == STORED
    assert load_noise_profile("cpu", tmp_path) is None


def test_profiles_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert noise_folder() == tmp_path / "rmeeto-bench" / "noise"
    assert save_noise_profile(STORED).is_relative_to(tmp_path)
    assert load_noise_profile(STORED.device_id) == STORED


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "rmeeto-bench-noise/9", "device_id": "cpu"}'])
def test_a_damaged_profile_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.json").write_text(text)
    with pytest.raises(DataError, match=r"cpu.json is no noise profile .* run calibrate again"):
        load_noise_profile("cpu", tmp_path)
