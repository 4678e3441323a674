"""Joules per image, and whether they can be trusted: a GPU's energy counter and its power readings are known to differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.protocol import TimedArm
from rmeeto_bench.measure.statistics import t_interval
from rmeeto_bench.records.run import Estimate

LEAST_SECONDS = 30.0  # of one arm without a break: shorter windows catch the averaging of the power sensor
AGREEMENT = 0.10  # between the energy counter and power integrated over time


@dataclass(frozen=True)
class EnergyReading:
    """One run of an arm without a break."""

    counter_j: float | None  # joules by the device's energy counter; None: it has none
    integrated_j: float | None  # joules by power integrated over time; None: the device has no power reading
    seconds: float  # device time of the run
    images: int  # handled in the run


@dataclass(frozen=True)
class Energy:
    """Joules per image of an arm."""

    estimate: Estimate | None  # None: the readings cannot be trusted
    reason: str = ""  # why they cannot be trusted; empty if they can


def _doubt(reading: EnergyReading) -> str:
    if reading.counter_j is None or reading.integrated_j is None:
        return "the device has no energy counter or no power reading"
    if reading.seconds < LEAST_SECONDS:
        return f"{reading.seconds:.0f} s without a break; {LEAST_SECONDS:.0f} s are needed"
    if not reading.counter_j > 0 or abs(reading.integrated_j / reading.counter_j - 1) > AGREEMENT:
        return f"the counter says {reading.counter_j:.0f} J, power over time {reading.integrated_j:.0f} J"
    return ""


def joules_per_image(readings: Sequence[EnergyReading]) -> Energy:
    """The mean over readings of the counter's joules per image, with a t interval from two readings on."""
    doubts = [doubt for doubt in map(_doubt, readings) if doubt]
    if doubts or not readings:
        return Energy(None, doubts[0] if doubts else "not measured")
    return Energy(t_interval([(reading.counter_j or 0.0) / reading.images for reading in readings]))


def measure_energy(device: Device, arm: TimedArm, *, seconds: float = LEAST_SECONDS, repeats: int = 3) -> list[EnergyReading]:
    """Run one warm arm without a break, `repeats` times for at least `seconds`. Raises `MeasurementError` for a step that
    takes no time."""
    one = device.time_block(arm.step, 2)[0] / 2
    if one <= 0:
        raise MeasurementError(f"a step of {arm.name} takes no measurable time; its energy cannot be measured")
    steps = math.ceil(1.05 * seconds / one)
    telemetry = device.telemetry()
    readings = []
    try:
        for _ in range(repeats):
            telemetry.before_block()
            taken, wall = device.time_block(arm.step, steps)
            seen = telemetry.after_block()
            integrated = seen.get("energy_integrated_j")
            if integrated is None and "power_w" in seen:
                integrated = seen["power_w"] * wall
            readings.append(EnergyReading(seen.get("energy_j"), integrated, taken, steps * arm.images))
    finally:
        telemetry.close()
    return readings
