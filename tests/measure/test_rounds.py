"""The measuring loop on the simulated device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.protocol import RoundsResult
from rmeeto_bench.measure.rounds import DEFAULT, PRESETS, TimedArm, TimingProtocol, Watch, balanced_orders, measure
from rmeeto_bench.measure.statistics import complete_rounds, paired_speedup
from rmeeto_bench.measure.verdict import judge
from rmeeto_bench.measure.warmup import clocks_hold, drifting, level
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block

PROFILE = next(profile for profile in load_profiles() if profile.name == "rtx4090")
COSTS = {"slow": 0.10, "fast": 0.05, "middle": 0.08}
ADAPTIVE = replace(DEFAULT, min_rounds=12, max_rounds=40, target=0.0025)  # stops when precise
QUIET = Scenario(ar_sd=0.0, idiosyncratic_sd=0.0005)


def run(
    scenario: Scenario = QUIET, protocol: TimingProtocol = DEFAULT, seed: int = 0, **watching: Any
) -> tuple[RoundsResult, list[Block]]:
    device = SimDevice(PROFILE, seed=seed, scenario=scenario)
    arms = [TimedArm(name, device.step(name, seconds), 8) for name, seconds in COSTS.items()]
    blocks: list[Block] = []
    return measure(device, arms, "slow", protocol, Watch(blocks.append, **watching)), blocks


def test_every_round_holds_every_arm_once_and_blocks_are_long_enough() -> None:
    result, blocks = run()
    assert Counter((b.round, b.arm) for b in blocks) == Counter({(r, a): 1 for r in range(result.rounds) for a in COSTS})
    assert all(block.seconds >= DEFAULT.block_seconds for block in blocks)
    assert all(block.images == 8 * block.steps for block in blocks)


def test_it_stops_when_precise_at_two_checks_and_says_so() -> None:
    result, _ = run(protocol=ADAPTIVE)
    assert (result.ended, result.steady) == ("precise", True)
    assert result.rounds == ADAPTIVE.min_rounds + ADAPTIVE.check_every
    assert judge(result, ADAPTIVE) == "VALID"


def test_noise_runs_into_the_cap() -> None:
    result, _ = run(Scenario(idiosyncratic_sd=0.05))
    assert result.ended in ("rounds", "time")
    assert result.half_width > DEFAULT.target


def test_a_machine_that_keeps_slowing_down_is_not_steady() -> None:
    result, _ = run(replace(QUIET, drift=60.0, drift_seconds=2000.0))
    assert not result.steady
    assert result.warmup_seconds >= DEFAULT.warmup_limit
    assert judge(result, DEFAULT) == "NOT_STEADY"


def test_being_asked_to_stop_ends_after_the_block_in_hand() -> None:
    blocks: list[Block] = []
    device = SimDevice(PROFILE, seed=0)
    arms = [TimedArm(name, device.step(name, seconds), 8) for name, seconds in COSTS.items()]
    result = measure(device, arms, "slow", DEFAULT, Watch(blocks.append, should_stop=lambda: len(blocks) == 7))
    assert (len(blocks), result.rounds, result.ended) == (7, 2, "interrupted")
    assert judge(result, DEFAULT) == "INTERRUPTED"


def test_the_time_limit_is_kept() -> None:
    protocol = replace(DEFAULT, time_limit=25.0, max_rounds=1000)
    result, blocks = run(Scenario(idiosyncratic_sd=0.05), protocol)
    assert result.ended == "time"
    assert 25 < sum(block.seconds for block in blocks) < 25 + 3 * 1.5


def test_the_time_limit_holds_while_every_round_is_dropped() -> None:
    protocol = replace(DEFAULT, time_limit=25.0, max_rejected=1000)
    result, blocks = run(Scenario(throttle_share=1.0), protocol)
    assert (result.rounds, result.ended) == (0, "time")
    assert judge(result, protocol) == "THROTTLED"
    assert sum(block.seconds for block in blocks) < 30


def test_a_dropped_round_is_kept_with_its_reason_and_measured_again() -> None:
    scenario = replace(QUIET, throttle_share=0.1)
    result, blocks = run(scenario, ADAPTIVE)
    dropped = {block.round for block in blocks if block.rejected_reason}
    assert dropped
    assert result.rejected == {"THROTTLED": len(dropped)}
    assert all((block.rejected_reason or "THROTTLED: HwThermalSlowdown").startswith("THROTTLED") for block in blocks)
    (session,) = complete_rounds(blocks, list(COSTS))
    assert len(session["slow"]) == result.rounds == len({block.round for block in blocks}) - len(dropped)
    assert result.ended == "precise"


def test_a_dropped_round_is_repeated_in_the_same_order() -> None:
    _, blocks = run(replace(QUIET, throttle_share=0.1))
    orders: dict[int, list[str]] = {}
    for block in blocks:
        orders.setdefault(block.round, []).append(block.arm)
    dropped = {block.round for block in blocks if block.rejected_reason}
    for number in dropped:
        following = orders.get(number + 1, orders[number])
        shorter = min(len(following), len(orders[number]))
        assert following[:shorter] == orders[number][:shorter]


def test_what_the_protocol_tolerates_is_not_dropped() -> None:
    result, blocks = run(replace(QUIET, contended_share=1.0), replace(DEFAULT, reject=("THROTTLED",)))
    assert result.rejected == {}
    assert all(block.telemetry["foreign_pids"] and block.rejected_reason is None for block in blocks)


def test_sessions_are_read_apart_and_incomplete_rounds_left_out() -> None:
    def block(session: int, number: int, arm: str, seconds: float, reason: str | None = None) -> Block:
        return Block("d", session, number, 0, arm, 1, 2, seconds, seconds, reason)

    blocks = [
        *(block(1, 0, arm, 6.0) for arm in "ab"),
        *(block(0, 0, arm, 2.0) for arm in "ab"),
        block(0, 1, "a", 3.0),  # its partner was rejected
        block(0, 1, "b", 3.0, "THROTTLED: HwSlowdown"),
        block(0, 2, "a", 4.0),  # the last block before a kill
    ]
    assert complete_rounds(blocks, ["a", "b"]) == [{"a": [1.0], "b": [1.0]}, {"a": [3.0], "b": [3.0]}]


@pytest.mark.parametrize(
    ("cycles", "seen", "expected"),
    [
        ([1.0] * 4, [{}] * 4, False),
        ([1.0] * 5, [{}] * 5, True),
        ([2.0, 1.0, 1.0, 1.0, 1.0, 1.0], [{}] * 6, True),
        ([1.0, 1.003, 1.006, 1.009, 1.012], [{}] * 5, False),
        ([1.0] * 5, [{"sm_mhz_mean": 2000}] * 4 + [{"sm_mhz_mean": 1970}], False),
        ([1.0] * 5, [{"sm_mhz_mean": mhz} for mhz in (2000, 1970, 2000, 1970, 2000)], True),
        ([1.0] * 5, [{"temperature_c": t} for t in (60, 60, 61, 61, 62)], False),
        ([1.0] * 5, [{"temperature_c": t, "sm_mhz_mean": 1999 + t % 2} for t in (60, 60, 61, 61, 61)], True),
    ],
)
def test_steady_means_time_clock_and_temperature(cycles: list[float], seen: list[dict], expected: bool) -> None:
    assert (level(cycles) and clocks_hold(seen)) is expected


def test_noise_is_not_taken_for_a_drift_and_a_drift_is_seen_through_noise() -> None:
    """Cycles that waver by 5 %, as on a machine that other programs share: five of them are hardly ever level."""
    generator = np.random.default_rng(11)
    noisy = 1 + 0.05 * generator.standard_normal((2000, 20))
    assert np.mean([level(list(cycles)) for cycles in noisy]) < 0.2
    alarms = np.mean([drifting(list(cycles)) for cycles in noisy])
    assert alarms <= 0.002 + 3 * np.sqrt(0.002 / 2000)
    slowing = noisy + 0.08 * np.arange(20)
    assert np.mean([drifting(list(cycles)) for cycles in slowing]) > 0.9
    assert drifting([1.0] * 4)  # too few to say


def test_a_noisy_machine_that_does_not_drift_is_steady() -> None:
    protocol = replace(DEFAULT, warmup_limit=40.0, min_rounds=1, max_rounds=1)  # the simulated card is warm by then
    found = [run(Scenario(ar_sd=0.0, idiosyncratic_sd=0.1), protocol, seed)[0] for seed in range(8)]
    assert any(result.warmup_seconds >= protocol.warmup_limit for result in found)  # no five cycles in a row were level
    assert all(result.steady for result in found)


@pytest.mark.parametrize(
    ("name", "sessions", "rounds"), [("quick", 1, 8), ("default", 6, 8), ("rigorous", 12, 12), ("sustained", 1, 60)]
)
def test_presets_measure_as_long_as_they_say(name: str, sessions: int, rounds: int) -> None:
    protocol = PRESETS[name]
    result, blocks = run(protocol=protocol)
    assert (protocol.sessions, result.rounds) == (sessions, rounds)
    assert all(block.seconds >= min(1.0, protocol.block_seconds) and block.steps >= protocol.min_steps for block in blocks)
    if name == "sustained":
        assert all(sum(b.seconds for b in blocks if b.arm == arm) >= 600 for arm in COSTS)


def test_an_unobserved_arm_has_no_telemetry() -> None:
    device = SimDevice(PROFILE, seed=0, scenario=replace(QUIET, telemetry_cost=0.01))
    step = device.step("a", 0.1)
    blocks: list[Block] = []
    measure(device, [TimedArm("a", step, 8), TimedArm("b", step, 8, observed=False)], "a", DEFAULT, Watch(blocks.append))
    assert all(bool(block.telemetry) is (block.arm == "a") for block in blocks)
    (session,) = complete_rounds(blocks, ["a", "b"])
    assert paired_speedup(session["a"], session["b"]).value == pytest.approx(1.01, abs=0.001)


def test_telemetry_is_closed_even_if_a_step_fails() -> None:
    closed = []
    device = SimDevice(PROFILE, seed=0, scenario=replace(QUIET, out_of_memory=("a",)))
    telemetry = device.telemetry()
    telemetry.close = lambda: closed.append(True)  # type: ignore[method-assign]
    device.telemetry = lambda: telemetry  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        measure(device, [TimedArm("a", device.step("a", 0.1), 8)], "a", DEFAULT, Watch(lambda _: None))
    assert closed == [True]


def test_orders_are_balanced_over_positions() -> None:
    names = [f"arm{i}" for i in range(6)]
    orders = balanced_orders(names, 12, seed=3)
    assert all(sorted(order) == names for order in orders)
    positions = Counter((order.index(name), name) for order in orders for name in names)
    assert set(positions.values()) == {2}
    assert orders == balanced_orders(names, 12, seed=3) != balanced_orders(names, 12, seed=4)
