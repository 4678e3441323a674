"""A fake NVML that replays a recorded trace, one JSON object a line, and a maker of small realistic traces.

A line holds from its `t` (seconds) until the next: `sm_mhz`, `memory_mhz`, `power_mw`, `temperature_c`, `reasons`, `pids`,
`energy_mj`, and `thermal_ns` and `power_ns` of violations since the driver was loaded.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rmeeto_bench.measure.devices.poller import INTERVAL, Sample, sample

Line = dict[str, Any]


class ReplayNvml:
    """As much of pynvml as telemetry reads, at the time that `clock` gives. `old` has only the names before CUDA 12;
    `counters` False is a card without violation and energy counters."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, trace: Path, clock: Callable[[], float], *, old: bool = False, counters: bool = True) -> None:
        self.lines = [json.loads(line) for line in trace.read_text().splitlines()]
        self.times = [line["t"] for line in self.lines]
        self.clock, self.counters, self.open = clock, counters, 0
        name = "nvmlDeviceGetCurrentClocksThrottleReasons" if old else "nvmlDeviceGetCurrentClocksEventReasons"
        setattr(self, name, lambda _: self.now["reasons"])

    @property
    def now(self) -> Line:
        return self.lines[max(0, bisect_right(self.times, self.clock()) - 1)]

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetClockInfo(self, _: str, kind: int) -> int:
        return self.now["sm_mhz" if kind == 1 else "memory_mhz"]

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:
        return self.now["power_mw"]

    def nvmlDeviceGetTemperature(self, _: str, __: int) -> int:
        return self.now["temperature_c"]

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.now["pids"]]

    def nvmlDeviceGetViolationStatus(self, _: str, policy: int) -> SimpleNamespace:
        if not self.counters:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(violationTime=self.now["thermal_ns" if policy == 1 else "power_ns"])

    def nvmlDeviceGetTotalEnergyConsumption(self, _: str) -> int:
        if not self.counters:
            raise self.NVMLError("Not Supported")
        return self.now["energy_mj"]


class ReplayPoller:
    """Samples the replayed trace at 5 Hz of its own time, in place of another process."""

    def __init__(self, nvml: ReplayNvml) -> None:
        self.nvml, self.began = nvml, 0.0

    def start(self) -> None:
        self.began = self.nvml.clock()

    def stop(self) -> list[Sample]:
        real, end, found = self.nvml.clock, self.nvml.clock(), []
        moment = self.began
        while moment < end:
            self.nvml.clock = lambda: moment  # noqa: B023
            found.append(sample(self.nvml, "GPU-x", moment))
            moment += INTERVAL
        self.nvml.clock = real
        return found

    def close(self) -> None: ...


def trace(
    path: Path,
    seconds: float,
    *,
    episodes: Iterable[tuple[float, float, Line]] = (),
    watts: float = 300.0,
    counter_bias: float = 1.0,
) -> Path:
    """Write a trace of a GPU at work at 10 Hz: warming up, clock at its boost, energy counted. In each of `episodes` (from,
    until, changes) values differ; heat and power-cap reasons let their violation counters run. `counter_bias` scales the
    energy counter against true power."""
    found = list(episodes)
    energy = thermal = power = 0.0
    lines = []
    for i in range(round(seconds * 10)):
        t = i / 10
        line: Line = {
            "t": t,
            "sm_mhz": 1980,
            "memory_mhz": 3201,
            "power_mw": round(1000 * watts),
            "temperature_c": round(60 - 25 * 0.9**t),
            "reasons": 0,
            "pids": [os.getpid()],
        }
        for start, end, changes in found:
            if start <= t < end:
                line |= changes
        energy += counter_bias * line["power_mw"] / 10
        thermal += 1e8 * bool(line["reasons"] & 0x60)
        power += 1e8 * bool(line["reasons"] & 0x4)
        lines.append({**line, "energy_mj": round(energy), "thermal_ns": round(thermal), "power_ns": round(power)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
