"""Warming up by condition, not by count: work time, the slope of block times, clock and temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from rmeeto_bench.measure.devices.telemetry import Telemetry
from rmeeto_bench.measure.protocol import RoundsProgress, TimedArm, TimingProtocol, WarmUp, Watch

if TYPE_CHECKING:
    from rmeeto_bench.measure.devices.device import Device  # which needs torch

CYCLES = 5  # a steady state is judged over the last this many cycles
SLOPE = 0.002  # relative change of the cycle time per cycle
CLOCK = 0.01  # relative change of the SM clock over the last cycles
DEGREES = 1.0  # change of the temperature over the last cycles, kelvin
WARMING = 1 / 60  # kelvin per second: slow heat passes any shorter look
WINDOW, COLD_WINDOW = 20.0, 60.0  # seconds over which the temperature must hold, on a warm device and on one that was cold
COLD = 5.0  # kelvin that the temperature rose since the warm-up began, from which on the device was cold
PATIENT = 60.0  # a preset whose warm-up may not last longer than this does not wait for the temperature
BLIND_LIMIT = 5 / 3  # most of a warm-up where nothing tells the temperature, as a share of the least
LOOK = 1 / 6  # of the least, from one look at the arms' relation to the next: a look at each cycle lets chance end any heat
STRETCHES = 12  # a blind warm-up is cut into this many, so that noise that lasts some seconds is not taken for heat
BLIND_P = 0.05  # p-value of a slope of the arms' relation over them, over all arms; a false alarm only goes on for longer
LEAST = 0.05  # seconds of one arm in a cycle, so that a timer's resolution does not matter
DRIFT_P = 0.002  # p-value of a slope over the last half of the cycles that noise does not explain, in one process of several
MARGIN = 1.03  # blocks are planned this much too long, so that noise leaves them long enough


def _trend(values: Sequence[float]) -> float:
    """Least-squares slope per step."""
    middle = (len(values) - 1) / 2
    return sum((i - middle) * value for i, value in enumerate(values)) / (len(values) * (len(values) ** 2 - 1) / 12)


def level(cycles: Sequence[float]) -> bool:
    """Whether the last cycles (seconds of each) have no slope worth mentioning."""
    last = cycles[-CYCLES:]
    return len(cycles) >= CYCLES and abs(_trend(last)) < SLOPE * sum(last) / CYCLES


def drifting(cycles: Sequence[float]) -> bool:
    """Whether the last half of the cycles has a slope that their own noise does not explain.

    On a machine that other programs share, five cycles are hardly ever level, however long one waits.
    """
    last = cycles[-max(CYCLES, len(cycles) // 2) :]
    if len(last) < CYCLES:
        return True
    slope, middle, mean = _trend(last), (len(last) - 1) / 2, sum(last) / len(last)
    squares = len(last) * (len(last) ** 2 - 1) / 12
    rest = sum((value - mean - slope * (i - middle)) ** 2 for i, value in enumerate(last)) / (len(last) - 2)
    error = math.sqrt(rest / squares)
    return abs(slope) >= SLOPE * mean and abs(slope) > error * float(special.stdtrit(len(last) - 2, 1 - DRIFT_P / 2))


def clocks_hold(seen: Sequence[Mapping[str, Any]]) -> bool:
    """Whether clock and temperature of the last cycles (telemetry of each) have settled, or are not known.

    For the clock only the trend counts: at the power cap it keeps fluctuating by 1 to 2 %.
    """
    clocks = [s["sm_mhz_mean"] for s in seen[-CYCLES:] if s.get("sm_mhz_mean")]
    warmth = [s["temperature_c"] for s in seen[-CYCLES:] if "temperature_c" in s]
    clock_holds = len(clocks) < CYCLES or abs(_trend(clocks)) * (CYCLES - 1) < CLOCK * max(clocks)
    return clock_holds and (not warmth or max(warmth) - min(warmth) <= DEGREES)


def heat_holds(moments: Sequence[float], seen: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the temperature no longer rises, or is not known.

    moments: the end of each cycle on the device's clock. A driver tells whole degrees, so the slope is fitted over a window.
    """
    known = [(moment, s["temperature_c"]) for moment, s in zip(moments, seen, strict=True) if "temperature_c" in s]
    if not known:
        return True
    (began, first), (now, _) = known[0], known[-1]
    window = COLD_WINDOW if max(degrees for _, degrees in known) - first > COLD else WINDOW
    last = [(moment, degrees) for moment, degrees in known if moment >= now - window]
    if len(last) < CYCLES or now - began < 0.9 * window:
        return False
    middle = sum(moment for moment, _ in last) / len(last)
    slope = sum((m - middle) * degrees for m, degrees in last) / sum((m - middle) ** 2 for m, _ in last)
    return abs(slope) <= WARMING


def relation_holds(moments: Sequence[float], logs: Sequence[Sequence[float]], window: float) -> bool:
    """Whether the arms kept their relation over the last `window` seconds: where no thermometer tells, what else heat changes.

    moments: the end of each cycle · logs: of the seconds of each arm, the baseline first, by cycle. What all arms feel cancels.
    """
    recent = sum(moment > moments[-1] - window for moment in moments)
    last = np.array(logs[-max(CYCLES, recent) :])  # [cycles, arms]
    if last.shape[1] < 2 or len(last) < CYCLES:
        return last.shape[1] < 2
    ratios = last[:, :1] - last[:, 1:]  # [cycles, arms - 1]
    levels = np.array([part.mean(axis=0) for part in np.array_split(ratios, min(STRETCHES, len(ratios)))])
    places = np.arange(len(levels)) - (len(levels) - 1) / 2
    slopes = places @ levels / (places @ places)
    rest = ((levels - levels.mean(axis=0) - np.outer(places, slopes)) ** 2).sum(axis=0) / (len(levels) - 2)
    t = np.abs(slopes) / np.sqrt(np.maximum(rest, 1e-30) / (places @ places))
    return float(2 * special.stdtr(len(levels) - 2, -t.max())) * len(t) > BLIND_P


def warm_up(device: Device, arms: Sequence[TimedArm], protocol: TimingProtocol, watch: Watch, telemetry: Telemetry) -> WarmUp:
    """Run all arms in turn, a cycle being about one block's time, until warm and steady or until it may last no longer.

    Where nothing tells the temperature it lasts `blind_seconds` at least, and the arms' relation must hold over these.
    """
    start = device.clock()
    for arm in arms:
        device.time_block(arm.step, 2)  # lazy initialisation, autotuning, first allocations
    seconds = {arm.name: math.inf for arm in arms}
    share = max(LEAST, min(1.0, protocol.block_seconds) / len(arms))
    cycles: list[float] = []
    logs: list[list[float]] = []
    moments: list[float] = []
    seen: list[dict[str, Any]] = []
    look, related = 0.0, False  # seconds at which the arms' relation is looked at next, and whether it held
    while True:
        telemetry.before_block()
        for arm in arms:
            known = seconds[arm.name]
            steps = 1 if math.isinf(known) else max(1, min(10_000, round(share / known))) if known > 0 else 10_000
            seconds[arm.name] = device.time_block(arm.step, steps)[0] / steps
        seen.append(telemetry.after_block())
        cycles.append(sum(seconds.values()))
        logs.append([math.log(max(value, 1e-12)) for value in seconds.values()])
        moments.append(device.clock())
        elapsed = moments[-1] - start
        watch.on_progress(RoundsProgress("warm-up", 0, protocol.max_rounds, math.inf))
        blind = 0.0 if any("temperature_c" in s for s in seen[-CYCLES:]) else protocol.blind_seconds
        late = elapsed >= protocol.warmup_limit
        holds = clocks_hold(seen) and (protocol.warmup_limit <= PATIENT or heat_holds(moments, seen))
        settled = holds and (level(cycles) or (late and not drifting(cycles)))
        if blind and not related and elapsed >= max(look, blind):
            related, look = relation_holds(moments, logs, blind), elapsed + LOOK * blind
        settled = settled and (related or not blind)
        if elapsed >= max(protocol.warmup_seconds, blind) and (settled or (late and elapsed >= BLIND_LIMIT * blind)):
            break
        if watch.should_stop():
            break
    steps_of = {
        name: max(protocol.min_steps, math.ceil(MARGIN * protocol.block_seconds / value) if value > 0 else 1)
        for name, value in seconds.items()
    }
    return WarmUp(steps_of, settled, len(cycles), elapsed)
