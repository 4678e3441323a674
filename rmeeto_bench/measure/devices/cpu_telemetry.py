"""Telemetry of a processor around each block: load, clock, and what other programs used. Complete only on Linux."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

ENOUGH = 0.75  # of our threads' time: with less left by others, a block measures the neighbours
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal of /proc/stat; guest time is within user time


def _busy_seconds(stat: Path) -> float | None:
    """Processor seconds that all programs of the machine have used since it started."""
    try:
        fields = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        return sum(int(fields[i]) for i in BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _megahertz(folder: Path) -> float | None:
    try:
        return int((folder / "scaling_cur_freq").read_text(encoding="ascii")) / 1000
    except (OSError, ValueError):
        return None


class CpuTelemetry:
    """Reads `/proc/stat` before and after a block: a fraction of a millisecond outside the timed part, nothing inside it.

    `threads`: how many processor threads the measured program uses.
    """

    def __init__(self, threads: int, *, stat: Path = Path("/proc/stat"), cores: int | None = None) -> None:
        self._threads = threads
        self._stat = stat
        self._cores = cores or os.cpu_count() or 1
        self._frequency = Path("/sys/devices/system/cpu/cpu0/cpufreq")
        self._start: tuple[float, float, float | None] = (0.0, 0.0, None)

    def before_block(self) -> None:
        """Note the wall time, and the processor time of this process and of all programs."""
        self._start = (time.perf_counter(), time.process_time(), _busy_seconds(self._stat))

    def after_block(self) -> dict[str, Any]:
        """Load, clock and what others used, in cores."""
        busy = _busy_seconds(self._stat)
        wall, own, busy_before = self._start
        seconds, own = time.perf_counter() - wall, time.process_time() - own
        seen: dict[str, Any] = {"load_average": round(os.getloadavg()[0], 2)}
        megahertz = _megahertz(self._frequency)
        if megahertz is not None:
            seen["cpu_mhz"] = round(megahertz)
        if busy is not None and busy_before is not None and seconds > 0.1:  # the counters tick every 10 ms
            foreign = max(0.0, (busy - busy_before - own) / seconds)
            seen["foreign_cores"] = round(foreign, 2)
            seen["contended"] = self._cores - foreign < ENOUGH * self._threads
        return seen

    def close(self) -> None:
        """Nothing to release."""
