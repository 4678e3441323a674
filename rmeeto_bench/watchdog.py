"""Detect a child process that hangs: one that is silent and uses no processor time for minutes never finishes."""

from __future__ import annotations

import os
import time
from pathlib import Path

PROC = Path("/proc")
SILENT = 600.0  # seconds without a word and without processor time
SILENT_UNSEEN = 7200.0  # seconds without a word where the system does not tell processor times
IDLE_SHARE = 0.002  # of one core: what threads that only wait use
POLLER = b"rmeeto_bench.measure.devices.poller"  # samples a GPU's sensors all the time, which is no progress
LOOK = 5.0  # seconds between two looks at processor times


def processor_seconds(pid: int) -> float | None:
    """Processor time of a process and all its descendants so far, in seconds; None where the system does not tell."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for place in PROC.glob("[0-9]*/stat"):
        try:
            fields = place.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        number = int(place.parent.name)
        # 1: parent; 11 to 14: user and system time, its own and that of its children that have ended
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    if pid not in ticks:
        return None
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[member] for member in family if not _samples(member)) / os.sysconf("SC_CLK_TCK")


def _samples(pid: int) -> bool:
    try:
        return POLLER in (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return True  # it has just ended


class Watchdog:
    """Told of every sign of life of a process; says how long there was none."""

    def __init__(self, pid: int, silent: float = SILENT, silent_unseen: float = SILENT_UNSEEN) -> None:
        self._pid, self._silent, self._silent_unseen = pid, silent, silent_unseen
        self.heard()

    def heard(self) -> None:
        """The process said something, which counts as progress. Costs nothing: processor times are looked at in a silence."""
        self._since = self._looked = time.monotonic()
        self._used: float | None = None

    def stuck_for(self) -> float | None:
        """Seconds without any progress, once they are too many; None before that."""
        now = time.monotonic()
        if now - self._looked < min(LOOK, self._silent / 4):
            return None
        self._looked, used = now, processor_seconds(self._pid)
        if used is None:  # the system does not tell, or the process has ended, which its pipes will tell
            return now - self._since if now - self._since > self._silent_unseen else None
        if self._used is None:
            self._used = used
        if used - self._used > max(0.05, IDLE_SHARE * (now - self._since)) or used < self._used:
            self._since, self._used = now, used
        return now - self._since if now - self._since > self._silent else None
