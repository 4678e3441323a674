"""The simulated device: its truth, its noise, its virtual clock, and the paper's protocol replayed on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.paper_protocol import replay_paper_protocol
from rmeeto_bench.measure.protocol import TimedArm
from rmeeto_bench.measure.rounds import QUICK, Watch, measure
from rmeeto_bench.measure.verdict import host_bound
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block

PROFILE = next(profile for profile in load_profiles() if profile.name == "a4000")
SILENT = Scenario(ar_sd=0.0, idiosyncratic_sd=0.0)


def device(scenario: Scenario = SILENT, seed: int = 0, session: int = 0) -> SimDevice:
    return SimDevice(PROFILE, seed=seed, session=session, scenario=scenario)


def blocks_of(sim: SimDevice) -> list[Block]:
    blocks: list[Block] = []
    arms = [TimedArm("a", sim.step("a", 0.1), 8), TimedArm("b", sim.step("b", 0.05), 8)]
    measure(sim, arms, "a", QUICK, Watch(blocks.append))
    return blocks


def test_without_noise_time_is_the_truth_and_passes_on_the_virtual_clock() -> None:
    sim = device()
    assert sim.time_block(sim.step("a", 0.25), 4) == (1.0, 1.0)
    assert sim.clock() == 1.0
    sim.step("a", 0.25)()
    assert sim.clock() == 1.25
    assert sim.time_block(lambda: sim.step("a", 0.25)(), 2)[0] == pytest.approx(0.5)  # any callable that wraps steps
    assert sim.clock() == pytest.approx(1.75)


def test_the_same_seed_gives_the_same_blocks_and_another_session_others() -> None:
    noisy = Scenario(process_sd=0.01, outlier_share=0.1, throttle_share=0.1)
    assert blocks_of(device(noisy, 1)) == blocks_of(device(noisy, 1))
    assert blocks_of(device(noisy, 1)) != blocks_of(device(noisy, 2))
    assert blocks_of(device(noisy, 1)) != blocks_of(device(noisy, 1, session=1))


def test_noise_has_the_size_and_memory_asked_for() -> None:
    sim = device(replace(SILENT, ar_sd=0.01, ar_rho=0.9))
    step = sim.step("a", 1.0)
    logs = np.log([sim.time_block(step, 1)[0] for _ in range(20_000)])
    assert logs.std() == pytest.approx(0.01, rel=0.1)
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(0.9, abs=0.02)
    independent = device(replace(SILENT, idiosyncratic_sd=0.01, outlier_share=0.05, outlier_size=0.2))
    step = independent.step("a", 1.0)
    logs = np.log([independent.time_block(step, 1)[0] for _ in range(5000)])
    assert np.mean(logs > 0.1) == pytest.approx(0.05, abs=0.01)
    assert np.std(logs[logs < 0.1]) == pytest.approx(0.01, rel=0.1)


def test_drift_grows_and_ends() -> None:
    sim = device(replace(SILENT, drift=0.08, drift_seconds=100.0))
    step = sim.step("a", 1.0)
    times = [sim.time_block(step, 1)[0] for _ in range(150)]
    assert times[0] == 1.0
    assert times[50] == pytest.approx(1.04, abs=0.002)
    assert times[-1] == pytest.approx(1.08)


def test_the_process_effect_belongs_to_session_and_arm() -> None:
    scenario = replace(SILENT, process_sd=0.01)
    one, again, other = device(scenario), device(scenario), device(scenario, session=1)
    first = one.time_block(one.step("a", 1.0), 1)[0]
    assert again.time_block(again.step("b", 1.0), 1)[0] != first
    assert again.time_block(again.step("a", 1.0), 1)[0] == first
    assert other.time_block(other.step("a", 1.0), 1)[0] != first


def test_throttling_episodes_are_slow_and_mostly_seen() -> None:
    scenario = replace(SILENT, throttle_share=0.1, throttle_blocks=3, throttle_detected=0.8, throttle_arms=("a",))
    sim = device(scenario)
    step, telemetry, slow, seen = sim.step("a", 1.0), sim.telemetry(), [], []
    for _ in range(3000):
        telemetry.before_block()
        slow.append(sim.time_block(step, 1)[0] > 1.1)
        found = telemetry.after_block()
        seen.append(bool(found["reasons"] & 0x40))
        assert not seen[-1] or (slow[-1] and found["violation_thermal_ns"] > 1e9)
    assert np.mean(slow) == pytest.approx(3 * 0.1 / (1 + 2 * 0.1), abs=0.03)
    assert sum(seen) / sum(slow) == pytest.approx(0.8, abs=0.05)
    assert sim.time_block(sim.step("b", 1.0), 1)[0] in (1.0, 1.12)


def test_a_power_cap_lowers_the_clock_by_the_cube_root_and_is_reported() -> None:
    sim = device(replace(SILENT, power_cap_w=0.9 * PROFILE.power_w / 8))
    telemetry = sim.telemetry()
    telemetry.before_block()
    assert sim.time_block(sim.step("a", 1.0), 1)[0] == pytest.approx(2.0)
    seen = telemetry.after_block()
    assert seen["reasons"] == 0x4
    assert seen["sm_mhz_mean"] == pytest.approx(PROFILE.boost_mhz / 2, abs=1)
    assert seen["power_w"] == pytest.approx(0.9 * PROFILE.power_w / 8)


def test_no_step_beats_the_launch_floor_and_that_makes_it_host_bound() -> None:
    sim = device(replace(SILENT, launch_floor=0.01))
    one, small, large = (sim.time_block(sim.step("a", seconds), 1)[0] for seconds in (0.0002, 0.012, 0.1))
    assert one == 0.01
    assert host_bound(one, small)
    assert not host_bound(one, large)


def test_what_does_not_fit_raises_torchs_error() -> None:
    sim = device(replace(SILENT, out_of_memory=("a",)))
    with pytest.raises(torch.OutOfMemoryError, match="a does not fit"):
        sim.step("a", 1.0)()
    sim.step("b", 1.0)()


def arms(sim: SimDevice) -> list[TimedArm]:
    return [TimedArm("merged", sim.step("merged", 0.08), 128), TimedArm("whole", sim.step("whole", 0.1), 128)]


def test_the_papers_protocol_is_right_on_a_quiet_device_and_measures_the_baseline_first() -> None:
    sim, heard = device(), []
    rates = replay_paper_protocol(sim, arms(sim), "whole", on_arm=heard.append)
    assert heard == ["whole", "merged"]
    assert rates == {"whole": pytest.approx(1280), "merged": pytest.approx(1600)}
    assert sim.clock() == pytest.approx(130 * 0.18)


def test_the_papers_protocol_differs_by_the_drift_between_its_arms_and_nothing_else() -> None:
    sim = device(replace(SILENT, drift=0.08, drift_seconds=130 * 0.18))
    rates = replay_paper_protocol(sim, arms(sim), "whole")
    at = [100 * 0.1 / 23.4, (130 * 0.1 + 100 * 0.08) / 23.4]  # share of the drift when each timed block begins
    assert rates["merged"] / rates["whole"] / 1.25 == pytest.approx((1 + 0.08 * at[0]) / (1 + 0.08 * at[1]), abs=5e-3)
    assert rates["merged"] / rates["whole"] < 1.25 * 0.97
