"""Input and output of the measuring loop. Imports no torch: verdicts and reports read this, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmeeto_bench.records.run import Block

THROTTLED, CONTENDED = "THROTTLED", "CONTENDED"


@dataclass(frozen=True)
class TimingProtocol:
    """How long and how often to measure.

    Rounds end at `max_rounds` or at `time_limit`. Where `min_rounds` is smaller they also end when every speed-up of the
    session is within `target` at two checks in a row, each `check_every` rounds from `min_rounds`. A round with a block that
    `reject` names is dropped whole and measured again.
    """

    name: str  # of the preset
    block_seconds: float  # least seconds of a block
    min_steps: int  # least steps of a block
    min_rounds: int  # of a session
    max_rounds: int  # of a session
    warmup_seconds: float  # least seconds of a session's warm-up
    warmup_limit: float  # most seconds of it
    time_limit: float  # seconds of a session's rounds
    minutes: float  # what the preset promises for six arms of the bundled model, accuracy included
    target: float = 0.0025  # half-width, as a share of the speed-up, that the printed interval over all sessions may have
    check_every: int = 4  # rounds
    seed: int = 0  # of the orders of the rounds
    sessions: int = 1  # fresh processes of a run
    max_rejected: int = 20  # dropped rounds of a session
    reject: tuple[str, ...] = (THROTTLED, CONTENDED)  # codes of blocks that drop their round
    blind_seconds: float = 0.0  # least seconds of a warm-up where nothing tells the temperature


CPU_TARGET = 0.02  # a processor shares caches, clocks and the machine: one percent is out of its reach
CPU_BLOCK = 0.5  # seconds of a block on a CPU: processes differ by more than shorter blocks do
CPU_WARMUP_LIMIT = 8.0  # seconds of a session's warm-up on a CPU: its caches and clock settle within them, and noise never does
# A first look tolerates other programs on the machine; 600 s of every arm is MLPerf's idea of a steady state.
QUICK = TimingProtocol("quick", 0.4, 1, 6, 8, 2.0, 10.0, 35.0, 2, max_rejected=4, reject=(THROTTLED,))
# Sessions are the replicates: six of eight rounds are worth more than three of twenty (docs/intervals.md has the table).
DEFAULT = TimingProtocol("default", 1.0, 2, 8, 8, 10.0, 300.0, 180.0, 8, target=0.01, sessions=6)
RIGOROUS = TimingProtocol("rigorous", 1.0, 8, 12, 12, 10.0, 300.0, 1800.0, 30, target=0.005, sessions=12, max_rejected=30)
SUSTAINED = TimingProtocol("sustained", 10.0, 8, 60, 60, 60.0, 300.0, 4 * 3600.0, 70)
PRESETS = {protocol.name: protocol for protocol in (QUICK, DEFAULT, RIGOROUS, SUSTAINED)}
# Where nothing tells the temperature: seconds of work in which slow heat shows or passes, and the least seconds of a process's
# warm-up, which undo the pause before it. A processor that heats within a minute shows it sooner.
BLIND, CPU_BLIND = (240.0, 45.0), (90.0, 20.0)


def blind_seconds(protocol: TimingProtocol, kind: str, worked: float) -> float:
    """Least seconds of the warm-up of a process on a device of this kind that tells no temperature and has worked for so many
    seconds for this run until now.

    What one process measures is EXPLORATORY anyhow, and `--sustained` is long enough to show heat.
    """
    if protocol.name in (QUICK.name, SUSTAINED.name):
        return 0.0
    first, later = CPU_BLIND if kind == "cpu" and protocol.name != RIGOROUS.name else BLIND
    return max(later, first - worked)


@dataclass(frozen=True)
class TimedArm:
    """An arm as the loop sees it."""

    name: str  # of the arm
    step: Callable[[], Any]  # runs one batch
    images: int  # per step
    observed: bool = True  # False leaves telemetry off during its blocks, to measure what telemetry itself costs


@dataclass(frozen=True)
class RoundsProgress:
    """How far the loop has come."""

    stage: str  # warm-up or rounds
    round: int  # complete rounds so far
    rounds: int  # most rounds of the session
    half_width: float  # widest half-width of the speed-ups at the last check, as a share of them; infinite before it
    rejected: int = 0  # rounds dropped so far


@dataclass(frozen=True)
class WarmUp:
    """How warm-up went."""

    steps: Mapping[str, int]  # arm -> steps of its blocks
    steady: bool  # the machine reached a steady state
    cycles: int  # how often all arms were run
    seconds: float  # length of the warm-up


@dataclass(frozen=True)
class RoundsResult:
    """How the rounds of a session went."""

    rounds: int  # complete rounds, which count
    steady: bool  # warm-up reached a steady state
    ended: str  # why the session ended: precise, rounds, time, rejected (too many rounds dropped) or interrupted
    half_width: float  # widest half-width of the speed-ups, as a share of them
    rejected: Mapping[str, int] = field(default_factory=dict)  # code -> rounds that were dropped for it
    gaps: float = 0.0  # share of counted blocks whose wall and device times disagree
    grew: int = 0  # most bytes by which one block made the allocator grow
    power_limited: bool | None = None  # the power limit held the clock down in some block; None: telemetry cannot tell
    unlocked: bool | None = None  # the clock was free to move; None: telemetry cannot tell
    warmup_cycles: int = 0  # how often warm-up ran all arms
    warmup_seconds: float = 0.0  # length of the warm-up


@dataclass(frozen=True)
class Watch:
    """The caller's side of the loop.

    A dropped round leaves its blocks behind: the offending one with `rejected_reason`, those before it without, those
    after it never measured. `complete_rounds` tells which rounds count.
    """

    on_block: Callable[[Block], None]  # called with each block; must keep it before the next one begins
    on_progress: Callable[[RoundsProgress], None] = lambda _: None  # called after each warm-up cycle and each round
    should_stop: Callable[[], bool] = lambda: False  # asked between blocks; True ends the session
