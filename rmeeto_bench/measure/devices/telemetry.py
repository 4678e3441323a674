"""Telemetry of a device around each block, and the rules by which it rejects a block.

Keys of a block's telemetry, each present only where it is known: `sm_mhz_mean`, `sm_mhz_min`, `memory_mhz`, `temperature_c`,
`power_w` (mean over the block), `energy_j` (the device's counter), `energy_integrated_j` (power over time), `reasons` (clock
event reasons seen, OR of NVML's bits), `violation_power_ns`, `violation_thermal_ns`, `foreign_pids`, `samples`,
`reserved_delta_bytes` (growth of torch's allocator); of a processor `load_average`, `cpu_mhz`, `foreign_cores` (processor
time of other programs per second) and `contended`; `unavailable` the reason why there is less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rmeeto_bench.measure.protocol import CONTENDED, THROTTLED

# NVML's clock event reasons (nvml.h, nvmlClocksEventReason*)
IDLE, USER_CLOCKS, POWER_CAP, HW_SLOWDOWN = 0x1, 0x2, 0x4, 0x8
SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x20, 0x40, 0x80
REASON_NAMES = {
    POWER_CAP: "SwPowerCap",
    HW_SLOWDOWN: "HwSlowdown",
    SW_THERMAL: "SwThermalSlowdown",
    HW_THERMAL: "HwThermalSlowdown",
    POWER_BRAKE: "HwPowerBrakeSlowdown",
}
# The power cap alone is how many cards run for hours: honest, and labelled. These are not.
FAULTS = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | POWER_BRAKE
LEAST_VIOLATION_NS = 1_000_000  # a counter that moved by less than 1 ms tells nothing about a block of a second


class Telemetry(Protocol):
    """Watches one device. Between `before_block` and `after_block` a block runs and nothing may disturb it."""

    def before_block(self) -> None:
        """Note counters, begin sampling."""
        ...

    def after_block(self) -> dict[str, Any]:
        """End sampling; what was seen since `before_block`, plain JSON values."""
        ...

    def close(self) -> None:
        """Release the resources of watching."""
        ...


def reason_names(reasons: int) -> str:
    """`HwSlowdown+HwThermalSlowdown` for the bits that slow a GPU down."""
    return "+".join(name for bit, name in REASON_NAMES.items() if reasons & bit)


def rejection(seen: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a block with this telemetry may not count: (THROTTLED or CONTENDED, details), or None."""
    faults = seen.get("reasons", 0) & FAULTS
    thermal = seen.get("violation_thermal_ns", 0)
    if faults or thermal > LEAST_VIOLATION_NS:
        named = reason_names(faults) or "thermal violation"
        return THROTTLED, f"{named}, {thermal / 1e6:.0f} ms" if thermal else named
    if seen.get("foreign_pids"):
        return CONTENDED, "other processes on the GPU: " + ", ".join(map(str, seen["foreign_pids"]))
    if seen.get("contended"):
        return CONTENDED, f"other programs used {seen.get('foreign_cores', 0):.1f} processor cores"
    return None


def power_limited(seen: Mapping[str, Any]) -> bool:
    """Whether the power cap held the clock down during the block."""
    return bool(seen.get("reasons", 0) & POWER_CAP) or seen.get("violation_power_ns", 0) > LEAST_VIOLATION_NS
