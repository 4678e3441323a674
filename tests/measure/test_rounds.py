"""The measuring loop on a device with a virtual clock."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from rmeeto_bench.measure.rounds import DEFAULT, TimedArm, Watch, balanced_orders, measure
from rmeeto_bench.measure.verdict import REMEDIES, judge
from rmeeto_bench.records import Block


class VirtualDevice:
    """Steps take as long as they are told to; the whole machine slows down by `drift` per virtual second."""

    id, name, kind = "virtual", "Virtual", "cpu"

    def __init__(self, *, drift: float = 0.0, noise: float = 0.001, seed: int = 0) -> None:
        self.now, self.drift, self.noise = 0.0, drift, noise
        self.random = random.Random(seed)

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def details(self) -> dict[str, Any]:
        return {}

    def time_block(self, step: Any, steps: int) -> tuple[float, float]:
        seconds = steps * step() * (1 + self.drift * self.now) * (1 + self.random.gauss(0, self.noise))
        self.now += seconds
        return seconds, seconds


ARMS = [TimedArm("slow", lambda: 0.10, 8), TimedArm("fast", lambda: 0.05, 8), TimedArm("middle", lambda: 0.08, 8)]


def run(device: VirtualDevice, protocol: Any = DEFAULT, **watching: Any) -> tuple[Any, list[Block]]:
    blocks: list[Block] = []
    watch = Watch(blocks.append, clock=lambda: device.now, **watching)
    return measure(device, ARMS, "slow", protocol, watch), blocks


def test_every_round_holds_every_arm_once_and_blocks_are_long_enough() -> None:
    result, blocks = run(VirtualDevice())
    assert Counter((b.round, b.arm) for b in blocks) == Counter({(r, a.name): 1 for r in range(result.rounds) for a in ARMS})
    assert all(block.seconds > 0.95 * DEFAULT.block_seconds for block in blocks)
    assert all(block.images == 8 * block.steps for block in blocks)


def test_it_stops_when_precise_and_says_so() -> None:
    result, _ = run(VirtualDevice(noise=0.0005))
    assert (result.ended, result.steady) == ("precise", True)
    assert result.rounds == DEFAULT.min_rounds + DEFAULT.check_every
    assert judge(result, DEFAULT) == "VALID"


def test_noise_runs_into_the_cap_and_is_not_called_valid() -> None:
    result, _ = run(VirtualDevice(noise=0.05))
    assert result.ended in ("rounds", "time")
    assert judge(replace(result, steady=True), DEFAULT) == "PRECISION_NOT_REACHED"


def test_a_machine_that_keeps_slowing_down_is_not_steady() -> None:
    result, _ = run(VirtualDevice(drift=0.05, noise=0.0))
    assert not result.steady
    assert judge(result, DEFAULT) == "NOT_STEADY"


def test_being_asked_to_stop_ends_after_the_block_in_hand() -> None:
    device = VirtualDevice()
    blocks: list[Block] = []
    watch = Watch(blocks.append, should_stop=lambda: len(blocks) == 7, clock=lambda: device.now)
    result = measure(device, ARMS, "slow", DEFAULT, watch)
    assert (len(blocks), result.rounds, result.ended) == (7, 2, "interrupted")
    assert judge(result, DEFAULT) == "INTERRUPTED"


def test_the_time_limit_is_kept() -> None:
    device = VirtualDevice(noise=0.05)
    result, _ = run(device, replace(DEFAULT, time_limit=25.0, max_rounds=1000))
    assert result.ended == "time"
    assert device.now < DEFAULT.warmup_limit + 25 + 3 * 2


def test_orders_are_balanced_over_positions() -> None:
    names = [f"arm{i}" for i in range(6)]
    orders = balanced_orders(names, 12, seed=3)
    assert all(sorted(order) == names for order in orders)
    positions = Counter((order.index(name), name) for order in orders for name in names)
    assert set(positions.values()) == {2}
    assert orders == balanced_orders(names, 12, seed=3) != balanced_orders(names, 12, seed=4)


def test_every_verdict_has_a_remedy() -> None:
    assert all(text for code, text in REMEDIES.items() if code != "VALID")
