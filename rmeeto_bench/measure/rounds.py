"""The measuring loop: blocks of all arms in interleaved rounds, in balanced random order, until precise enough."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rmeeto_bench.measure.devices.telemetry import Telemetry, power_limited, rejection
from rmeeto_bench.measure.protocol import (
    CPU_TARGET,
    DEFAULT,
    PRESETS,
    QUICK,
    RIGOROUS,
    SUSTAINED,
    RoundsProgress,
    RoundsResult,
    TimedArm,
    TimingProtocol,
    WarmUp,
    Watch,
)
from rmeeto_bench.measure.statistics import half_width, paired_speedup
from rmeeto_bench.measure.turns import Turns
from rmeeto_bench.measure.warmup import warm_up
from rmeeto_bench.records.run import Block

if TYPE_CHECKING:
    from rmeeto_bench.measure.devices.device import Device  # which needs torch

__all__ = [
    "CPU_TARGET",
    "DEFAULT",
    "PRESETS",
    "QUICK",
    "RIGOROUS",
    "SUSTAINED",
    "RoundsProgress",
    "RoundsResult",
    "TimedArm",
    "TimingProtocol",
    "Watch",
    "balanced_orders",
    "measure",
]
GAP = 0.02  # wall and device time of a block may differ by this share of the wall time
LOCKED_SPREAD = 0.002  # a clock that moves by less than this while below its maximum is held there


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


def _widest(times: Mapping[str, list[float]], baseline: str) -> float:
    if len(times[baseline]) < 2:
        return math.inf
    others = [name for name in times if name != baseline] or [baseline]
    return max(half_width(paired_speedup(times[baseline], times[name])) for name in others)


@dataclass
class _Session:
    """The state of one session's rounds."""

    device: Device  # that is measured
    arms: dict[str, TimedArm]  # name -> arm
    protocol: TimingProtocol  # how long and how often
    watch: Watch  # what the caller sees and steers
    telemetry: Telemetry  # what is read beside the times
    warm: WarmUp  # how the warm-up ended
    number: int  # of the session, from 0
    turns: Turns  # the other programs that take turns with this one
    waited: float = 0.0  # seconds spent waiting for a turn
    times: dict[str, list[float]] = field(init=False)  # arm -> seconds per image of each round kept
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> dropped rounds
    gaps: int = 0  # blocks whose time on the host and on the device differ too much
    grew: int = 0  # bytes: the most that the allocator reserved anew in a block
    capped: bool | None = None  # whether a power limit held the clock down; None: unknown
    clocks: list[float] = field(default_factory=list)  # mean MHz of each block
    done: int = 0  # rounds kept

    def __post_init__(self) -> None:
        self.times = {name: [] for name in self.arms}

    def block(self, name: str, number: int, position: int) -> tuple[Block, str | None]:
        """Time one block; the block as handed to the caller, and the code of its rejection."""
        self.waited += self.turns.wait()
        arm, steps = self.arms[name], self.warm.steps[name]
        if arm.observed:
            self.telemetry.before_block()
        seconds, wall = self.device.time_block(arm.step, steps)
        seen = self.telemetry.after_block() if arm.observed else {}
        unfit = rejection(seen)
        if unfit is not None and unfit[0] not in self.protocol.reject:
            unfit = None
        reason = None if unfit is None else f"{unfit[0]}: {unfit[1]}"
        images = arm.images * steps
        block = Block(self.device.id, self.number, number, position, name, steps, images, seconds, wall, reason, seen)
        self.watch.on_block(block)
        return block, None if unfit is None else unfit[0]

    def round(self, order: Sequence[str], number: int) -> str | None:
        """Measure one round; None if it counts, else the code of its rejection or `interrupted`."""
        blocks = []
        for position, name in enumerate(order):
            block, code = self.block(name, number, position)
            if code is not None:
                self.rejected[code] += 1
                for _ in order[position + 1 :]:  # whoever takes turns with this program stays beside it round by round
                    self.waited += self.turns.wait()
                return code
            blocks.append(block)
            if position < len(order) - 1 and self.watch.should_stop():
                return "interrupted"
        for block in blocks:
            self.keep(block)
        self.done += 1
        return None

    def keep(self, block: Block) -> None:
        """Take a block of a round that counts into the statistics."""
        self.times[block.arm].append(block.seconds / block.images)
        seen: Mapping[str, Any] = block.telemetry
        self.gaps += abs(block.wall_seconds - block.seconds) > GAP * block.wall_seconds
        self.grew = max(self.grew, seen.get("reserved_delta_bytes", 0))
        if "reasons" in seen or "violation_power_ns" in seen:
            self.capped = bool(self.capped) or power_limited(seen)
        if "sm_mhz_mean" in seen:
            self.clocks.append(seen["sm_mhz_mean"])

    def result(self, ended: str, width: float) -> RoundsResult:
        """What the session comes to."""
        blocks = self.done * len(self.arms)
        spread = (max(self.clocks) - min(self.clocks)) / max(self.clocks) if self.clocks else 0.0
        return RoundsResult(
            rounds=self.done,
            steady=self.warm.steady,
            ended=ended,
            half_width=width,
            rejected=dict(self.rejected),
            gaps=self.gaps / blocks if blocks else 0.0,
            grew=self.grew,
            power_limited=self.capped,
            unlocked=spread > LOCKED_SPREAD if self.clocks else None,
            warmup_cycles=self.warm.cycles,
            warmup_seconds=self.warm.seconds,
        )


def _run(session: _Session, baseline: str) -> RoundsResult:
    """Rounds until precise, or until a cap."""
    protocol, watch, device = session.protocol, session.watch, session.device
    orders = balanced_orders(list(session.arms), protocol.max_rounds, protocol.seed + session.number)
    start, width, precise, number = device.clock(), math.inf, 0, 0
    ended = "rounds"
    while session.done < protocol.max_rounds:
        if watch.should_stop():
            ended = "interrupted"
            break
        dropped = session.round(orders[session.done], number)  # a dropped round is repeated in its order: balance stays
        number += 1
        if dropped == "interrupted":
            ended = dropped
            break
        if dropped is not None and sum(session.rejected.values()) > protocol.max_rejected:
            ended = "rejected"
            break
        done = session.done
        if dropped is None and done >= protocol.min_rounds and (done - protocol.min_rounds) % protocol.check_every == 0:
            width = _widest(session.times, baseline)
            precise = precise + 1 if width <= protocol.target else 0
        watch.on_progress(RoundsProgress("rounds", done, protocol.max_rounds, width, sum(session.rejected.values())))
        if precise == 2:
            return session.result("precise", width)
        if device.clock() - start - session.waited > protocol.time_limit and (
            done >= min(6, protocol.min_rounds) or dropped is not None
        ):
            ended = "time"
            break
    return session.result(ended, _widest(session.times, baseline))


def measure(
    device: Device, arms: list[TimedArm], baseline: str, protocol: TimingProtocol, watch: Watch, *, session: int = 0
) -> RoundsResult:
    """Warm up, then measure round by round. Only complete rounds count; every block goes to `watch.on_block` at once.

    Rounds are numbered as they were measured, dropped ones included; `complete_rounds` reads the blocks back.
    """
    telemetry, turns = device.telemetry(), Turns.join()
    try:
        turns.wait()
        warm = warm_up(device, arms, protocol, watch, telemetry)
        by_name = {arm.name: arm for arm in arms}
        return _run(_Session(device, by_name, protocol, watch, telemetry, warm, session, turns), baseline)
    finally:
        turns.leave()
        telemetry.close()
