"""The measuring loop: blocks of all arms in interleaved rounds, in balanced random order, until precise enough."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmeeto_bench.measure.device import Device
from rmeeto_bench.measure.statistics import half_width, paired_speedup
from rmeeto_bench.records import Block


@dataclass(frozen=True)
class Protocol:
    """How long and how often to measure. Times in seconds; `target` is the relative half-width of every speed-up.

    A block is at least `block_seconds` and `min_steps` steps. Rounds end when every speed-up is within `target` at two
    checks in a row (each `check_every` rounds, from `min_rounds`), at `max_rounds`, or at `time_limit`.
    """

    name: str
    block_seconds: float
    min_steps: int
    min_rounds: int
    max_rounds: int
    warmup_seconds: float
    warmup_limit: float
    time_limit: float
    target: float = 0.0025
    check_every: int = 4
    seed: int = 0


CPU_TARGET = 0.02  # a processor shares caches, clocks and the machine: a quarter of a percent is out of its reach
QUICK = Protocol("quick", 0.4, 1, 6, 8, 2.0, 10.0, 35.0)
DEFAULT = Protocol("default", 1.0, 2, 12, 40, 10.0, 60.0, 240.0)
RIGOROUS = Protocol("rigorous", 1.0, 8, 30, 60, 10.0, 120.0, 1800.0)
PRESETS = {protocol.name: protocol for protocol in (QUICK, DEFAULT, RIGOROUS)}


@dataclass(frozen=True)
class TimedArm:
    """An arm as the loop sees it: a name, a step to call, the images one step handles."""

    name: str
    step: Callable[[], Any]
    images: int


@dataclass(frozen=True)
class RoundsProgress:
    """Where the loop is: the round in hand and the widest relative half-width so far (infinite before there is one)."""

    stage: str
    round: int
    rounds: int
    half_width: float


@dataclass(frozen=True)
class RoundsResult:
    """What the loop did: complete rounds, whether warm-up reached a steady state, and why it ended.

    `ended`: precise, rounds, time or interrupted.
    """

    rounds: int
    steady: bool
    ended: str
    half_width: float


@dataclass(frozen=True)
class Watch:
    """The caller's side: `on_block` must keep each block before the next begins; `should_stop` is asked after each."""

    on_block: Callable[[Block], None]
    on_progress: Callable[[RoundsProgress], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.perf_counter


def balanced_orders(names: list[str], rounds: int, seed: int) -> list[list[str]]:
    """One order of the arms per round: random rotations of random orders, so that every arm visits every position
    equally often over each `len(names)` rounds and follows no fixed neighbour."""
    generator = random.Random(seed)
    orders: list[list[str]] = []
    while len(orders) < rounds:
        base = generator.sample(names, len(names))
        shifts = generator.sample(range(len(names)), len(names))
        orders.extend(base[shift:] + base[:shift] for shift in shifts)
    return orders[:rounds]


def _steady(durations: list[float]) -> bool:
    """Whether the last five durations have a slope below 0.2 % of their mean per cycle."""
    if len(durations) < 5:
        return False
    last = np.array(durations[-5:])
    slope = np.polyfit(np.arange(5), last, 1)[0]
    return bool(abs(slope) < 0.002 * last.mean())


def warm_up(device: Device, arms: list[TimedArm], protocol: Protocol, watch: Watch) -> tuple[dict[str, int], bool]:
    """Run all arms in turn until warm and steady; returns steps per block for each arm, and whether steady was reached.

    Steady: at least `warmup_seconds`, and cycle times without slope; given up at `warmup_limit`.
    """
    start = watch.clock()
    for arm in arms:
        device.time_block(arm.step, 1)  # lazy initialisation
    seconds = {arm.name: float("inf") for arm in arms}
    cycles: list[float] = []
    while True:
        for arm in arms:
            steps = max(1, min(1000, int(0.05 / seconds[arm.name]) if seconds[arm.name] > 0 else 1000))
            seconds[arm.name] = device.time_block(arm.step, steps)[0] / steps
        cycles.append(sum(seconds.values()))
        elapsed = watch.clock() - start
        watch.on_progress(RoundsProgress("warm-up", 0, protocol.max_rounds, float("inf")))
        steady = _steady(cycles)
        if (elapsed >= protocol.warmup_seconds and steady) or elapsed >= protocol.warmup_limit or watch.should_stop():
            break
    needed = {name: protocol.block_seconds / s if s > 0 else 1 for name, s in seconds.items()}
    return {name: max(protocol.min_steps, int(np.ceil(count))) for name, count in needed.items()}, steady


def _widest(times: Mapping[str, list[float]], baseline: str) -> float:
    others = [name for name in times if name != baseline] or [baseline]
    return max(half_width(paired_speedup(times[baseline], times[name])) for name in others)


def measure(
    device: Device, arms: list[TimedArm], baseline: str, protocol: Protocol, watch: Watch, *, session: int = 0
) -> RoundsResult:
    """Warm up, then measure round by round. Only complete rounds count; every block goes to `watch.on_block` at once."""
    steps, steady = warm_up(device, arms, protocol, watch)
    by_name = {arm.name: arm for arm in arms}
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    start, width, precise, done = watch.clock(), float("inf"), 0, 0
    for number, order in enumerate(balanced_orders(list(by_name), protocol.max_rounds, protocol.seed + session)):
        if watch.should_stop():
            return RoundsResult(done, steady, "interrupted", width)
        this_round = {}
        for position, name in enumerate(order):
            arm = by_name[name]
            seconds, wall = device.time_block(arm.step, steps[name])
            images = arm.images * steps[name]
            watch.on_block(Block(device.id, session, number, position, name, steps[name], images, seconds, wall))
            this_round[name] = seconds / images
            if watch.should_stop() and position < len(order) - 1:
                return RoundsResult(done, steady, "interrupted", width)
        for name, value in this_round.items():
            times[name].append(value)
        done += 1
        if done >= 2:
            width = _widest(times, baseline)
        watch.on_progress(RoundsProgress("rounds", done, protocol.max_rounds, width))
        if done >= protocol.min_rounds and (done - protocol.min_rounds) % protocol.check_every == 0:
            precise = precise + 1 if width <= protocol.target else 0
            if precise == 2:
                return RoundsResult(done, steady, "precise", width)
        if watch.clock() - start > protocol.time_limit and done >= min(6, protocol.min_rounds):
            return RoundsResult(done, steady, "time", width)
    return RoundsResult(done, steady, "rounds", width)
