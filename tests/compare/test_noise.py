"""What calibrating finds out on a device whose noise is known, and the profiles it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmeeto_bench.compare.gate_power import PairNoise, draw, outcomes
from rmeeto_bench.compare.gate_rule import FAILS, PASSES
from rmeeto_bench.compare.noise import (
    ARM,
    TWIN,
    UNOBSERVED,
    Noise,
    NoiseProfile,
    estimate_noise,
    gate_sentence,
    load_noise_profile,
    noise_folder,
    save_noise_profile,
)
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.rounds import DEFAULT, TimedArm, Watch, measure
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block, Estimate

PROFILE = next(profile for profile in load_profiles() if profile.name == "rtx4090")
NOISE = Noise(
    sessions=12,
    rounds=96,
    within_sd=0.002,
    between_sd=0.004,
    rate_sd=0.005,
    drift=0.001,
    pair_rate_sd=0.007,
    pair_speedup_sd=0.01,
    pair_degrees=6.0,
    margin=0.0075,
    fails=0.016,
    passes=0.008,
    telemetry_cost=Estimate(0.0001, -0.0002, 0.0004),
)


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
    assert noise.pair_rate_sd == pytest.approx(np.sqrt(2) * 0.004, rel=0.2)
    assert noise.pair_speedup_sd == pytest.approx(2 * 0.004, rel=0.2)


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


def calibrated_pairs(rng: np.random.Generator, sd: float) -> Noise:
    """What calibrating finds on a CPU: six pairs that took turns, of rounds without noise, each process with an effect."""
    effects = rng.normal(0, sd, (12, 2))
    blocks = [
        Block("cpu", session, number, place, arm, 1, 1, float(np.exp(effects[session, place % 2])), 1.0)
        for session in range(12)
        for number in range(6)
        for place, arm in enumerate((ARM, TWIN, UNOBSERVED))
    ]
    return estimate_noise(blocks, turns=True)


def test_what_calibrate_says_of_the_gate_comes_true() -> None:
    """A device is calibrated, and then gates on it are run, again and again: the loss named is FAILed, or PASSed, in 95 of 100.

    The noise of the gates is the device's true one, not what calibrating took it for.
    """
    rng, sd = np.random.default_rng(194), 0.006
    failed, passed = [], []
    for seed in range(12):
        noise = calibrated_pairs(rng, sd)
        assert noise.fails is not None
        assert noise.margin < noise.fails
        truth = PairNoise(np.sqrt(2) * sd, 2 * sd)
        failed.append(np.mean(outcomes(draw(truth, [0, 0, np.log1p(-noise.fails)], 12, 500, seed), 6, noise.margin) == FAILS))
        if noise.passes is not None:
            loss = np.log1p(-noise.passes)
            passed.append(np.mean(outcomes(draw(truth, [0, 0, loss], 12, 500, seed), 6, noise.margin) == PASSES))
    assert np.mean(failed) == pytest.approx(0.95, abs=0.045)
    assert np.mean(passed) == pytest.approx(0.95, abs=0.045)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            (0.0075, 0.016, 0.0085),
            "margin of 0.75 % of images/s FAILs a loss of 1.6 %, and PASSes a loss of 0.85 %, in 95 of 100",
        ),
        ((0.02, 0.05, 0.0), "FAILs a loss of 5 %, and PASSes a program without loss, in 95 of 100 cases each"),
        ((0.02, 0.05, None), "in 95 of 100 cases, and an unchanged program does not PASS so often: let the machine idle"),
        ((0.45, None, None), "FAILs no loss in 95 of 100 cases"),
    ],
)
def test_the_sentence_about_the_gate_comes_from_its_numbers(found: tuple, says: str) -> None:
    margin, fails, passes = found
    assert says in gate_sentence(replace(NOISE, margin=margin, fails=fails, passes=passes))


def test_too_little_is_an_error_that_says_what_was_dropped() -> None:
    with pytest.raises(MeasurementError, match="two pairs of processes with 6 complete rounds each; let the machine idle"):
        calibrated(Scenario(), sessions=1)
    with pytest.raises(MeasurementError, match=r"rounds each \(dropped: CONTENDED: other processes on the GPU: 4242\)"):
        calibrated(Scenario(contended_share=1.0), sessions=2)


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
