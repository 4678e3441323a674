"""Whether a measurement may be believed, why not, and what to do about it. No torch: reports read this too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rmeeto_bench.measure.protocol import RoundsResult, TimingProtocol
from rmeeto_bench.measure.statistics import ENOUGH_SESSIONS

# INVALID codes, the most fundamental first: of several that apply, the first is the verdict
INVALID = {
    "OOM": "out of memory at this batch size; choose a smaller --batch-size for all arms",
    "ARM_FAILED": "correct its program, or leave this arm out",
    "TOKENS_MISMATCH": "the tokens counted in the timed program are not those of the schedule; please report this",
    "IDENTITY_FAILED": "the timed program and the accuracy run give different classes; use one precision, batch size and "
    "checkpoint for both",
    "SLOW_PATH": "the fast kernels asked for did not run; doctor says why, or choose another --backend",
    "ENV_CHANGED": "driver, power limit or software changed between sessions; run all sessions again",
    "THROTTLED": "heat or a power brake kept slowing the GPU down; improve its cooling or power supply, or let it rest",
    "CONTENDED": "other programs kept using this device; wait for them or stop them, then run again",
    "NOT_MEASURED": "nothing was timed for this arm; run again",
    "INTERRUPTED": "stopped early; run again for the missing rounds",
    "ALLOCATOR_GREW": "memory was allocated while timing; free memory on the device or choose a smaller --batch-size",
    "GAP": "device time and wall time disagree by more than 2 %; stop other programs on the host, then run again",
    "NOT_STEADY": "no interval covers that; close other programs, let the device do this work for half an hour, then run again",
    "PRECISION_NOT_REACHED": "the printed interval of this speed-up, or of half of the arms, is wider than asked for; let the "
    "machine idle, or use --rigorous",
}
REMEDIES = {
    **INVALID,
    "SIMULATED": "computed by the simulated device, not measured; run on a real device for numbers to keep",
    "EXPLORATORY": "fewer than three processes were measured, so the interval does not cover how processes differ; run the "
    "default preset for numbers to keep",
    "VALID": "",
}
LABELS = {
    "POWER_LIMITED": "the power limit held the clock down, as it does in this card's daily work",
    "SYNTHETIC_INPUT": "inputs were random noise, not images",
    "HOST_BOUND": "the host launches work more slowly than the GPU does it; CUDA graphs or a larger batch would be faster",
    "MIG": "this is a MIG slice, not a whole GPU",
    "DEVICE_SPREAD": "cards of the same kind differ by more than 2 %; they are listed apart",
    "UNLOCKED": "the clock was free to move; an administrator can lock it with nvidia-smi -lgc",
}
FEWEST_ROUNDS = 3  # fewer complete rounds give no interval worth printing
GAP_SHARE = 0.1  # blocks with a gap that may be chance; a stall of the host now and then delays no queue that is full
HOST_BOUND_SHARE = 0.8
SPREAD = 0.02


@dataclass(frozen=True)
class Evidence:
    """What is known of an arm or a device beside its rounds. False, the default, is the good case or the unknown one."""

    simulated: bool = False  # no real device: not a measurement
    out_of_memory: bool = False  # invalid: the arm did not fit
    arm_failed: bool = False  # invalid: the program of others that it is failed
    tokens_mismatch: bool = False  # invalid: other token counts than the schedule's
    identity_failed: bool = False  # invalid: r = 0 gave other answers than the plain model
    slow_path: bool = False  # invalid: a fast path that was asked for did not run
    environment_changed: bool = False  # invalid: sessions ran in different environments
    synthetic_input: bool = False  # label: timed on noise
    host_bound: bool = False  # label: the processor, not the GPU, set the pace
    mig: bool = False  # label: a slice of a GPU
    device_spread: bool = False  # label: devices of one kind differ


def invalid_codes(result: RoundsResult, protocol: TimingProtocol, evidence: Evidence) -> tuple[str, ...]:
    """All INVALID codes that apply, the most fundamental first."""
    dropped = result.ended == "rejected" or (result.rounds == 0 and bool(result.rejected))
    most = max(result.rejected, key=lambda code: result.rejected[code]) if result.rejected else ""
    quick = protocol.name == "quick"
    found = {
        "OOM": evidence.out_of_memory,
        "ARM_FAILED": evidence.arm_failed,
        "TOKENS_MISMATCH": evidence.tokens_mismatch,
        "IDENTITY_FAILED": evidence.identity_failed,
        "SLOW_PATH": evidence.slow_path,
        "ENV_CHANGED": evidence.environment_changed,
        "THROTTLED": dropped and most == "THROTTLED",
        "CONTENDED": dropped and most == "CONTENDED",
        "NOT_MEASURED": result.rounds == 0 and not dropped,
        "INTERRUPTED": result.ended == "interrupted" and result.rounds > 0,
        "ALLOCATOR_GREW": result.grew > 0,
        "GAP": result.gaps > GAP_SHARE,
        "NOT_STEADY": not result.steady and result.rounds > 0 and not quick,
        "PRECISION_NOT_REACHED": False,  # of the printed interval, so of a run: see `judge_run`
    }
    return tuple(code for code in INVALID if found[code])


def judge(result: RoundsResult, protocol: TimingProtocol, evidence: Evidence | None = None) -> str:
    """The verdict code of one session's rounds with all that is known besides; `REMEDIES` has its sentence."""
    known = evidence or Evidence()
    invalid = invalid_codes(result, protocol, known)
    if invalid:
        return invalid[0]
    return "SIMULATED" if known.simulated else "VALID"


@dataclass(frozen=True)
class Printed:
    """What the reader sees of an arm's speed-up over all sessions, and whether it held still."""

    sessions: int  # fresh processes behind the interval
    half_width: float | None  # of the printed interval, as a share of the value; None: the baseline, which has none
    middle: float = 0.0  # median half-width over the arms of the run: one arm may agree by luck, half of them hardly do
    unsteady: str | None = None  # how speeds or heat changed over the rounds in a way that no interval covers


def judge_run(
    results: Iterable[RoundsResult], protocol: TimingProtocol, printed: Printed, evidence: Evidence | None = None
) -> str:
    """The verdict of an arm from all its sessions and from the interval that is printed.

    Fewer than three sessions do not know how processes differ: such a run is EXPLORATORY, whatever its interval.
    """
    known = evidence or Evidence()
    code = worst(judge(result, protocol, known) for result in results)
    if code not in ("VALID", "SIMULATED"):
        return code
    if printed.sessions < ENOUGH_SESSIONS:
        return "SIMULATED" if known.simulated else "EXPLORATORY"
    if printed.unsteady is not None:
        return "NOT_STEADY"
    if printed.half_width is not None and max(printed.half_width, printed.middle) > protocol.target:
        return "PRECISION_NOT_REACHED"
    return code


def worst(codes: Iterable[str]) -> str:
    """The verdict of a run from those of its sessions. NOT_MEASURED if there are none."""
    order = list(REMEDIES)
    return min(codes, key=order.index, default="NOT_MEASURED")


def labels(result: RoundsResult, evidence: Evidence | None = None) -> tuple[str, ...]:
    """What a reader must know of a result that is valid all the same; `LABELS` has the sentences."""
    known = evidence or Evidence()
    found = {
        "POWER_LIMITED": bool(result.power_limited),
        "SYNTHETIC_INPUT": known.synthetic_input,
        "HOST_BOUND": known.host_bound,
        "MIG": known.mig,
        "DEVICE_SPREAD": known.device_spread,
        "UNLOCKED": bool(result.unlocked),
    }
    return tuple(label for label in LABELS if found[label])


def host_bound(seconds_batch_1: float, seconds: float) -> bool:
    """Whether a step takes hardly longer than one of batch 1: then launching it, not computing, takes the time."""
    return seconds_batch_1 / seconds >= HOST_BOUND_SHARE


def device_spread(images_per_second: Mapping[str, float]) -> bool:
    """Whether devices of one kind (id -> rate of the same arm) differ by more than 2 % of the fastest."""
    rates = list(images_per_second.values())
    return len(rates) > 1 and max(rates) - min(rates) > SPREAD * max(rates)
