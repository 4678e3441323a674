"""As much of NVML as the program asks, of the stand-in GPUs: made figures of a quiet minute of a card."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
TRACE = [json.loads(line) for line in (Path(__file__).parent / "trace.jsonl").read_text().splitlines()]
WATTS = 250.0


class NVMLError(Exception):
    """What a driver refuses."""


def _now() -> dict[str, Any]:
    return TRACE[int(time.time() * 5) % len(TRACE)]


def nvmlInit() -> None:
    """There is a driver."""


def nvmlShutdown() -> None:
    """It needs no thanks."""


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    """Raises `NVMLError` for a UUID that is not there."""
    if uuid not in os.environ["STAND_IN_GPUS"].split(","):
        raise NVMLError(f"Not Found: {uuid}")
    return uuid


def nvmlDeviceGetMigMode(handle: str) -> list[int]:
    """Of a GPU; a slice does not tell."""
    if handle.startswith("MIG-"):
        raise NVMLError("Not Supported")
    return [0, 0]


def nvmlSystemGetDriverVersion() -> str:
    """A driver of CUDA 13."""
    return "580.65.06"


def nvmlDeviceGetClockInfo(_: str, kind: int) -> int:
    """MHz now."""
    return int(_now()["sm_mhz" if kind == NVML_CLOCK_SM else "memory_mhz"])


def nvmlDeviceGetMaxClockInfo(_: str, kind: int) -> int:
    """MHz at most."""
    return max(int(line["sm_mhz" if kind == NVML_CLOCK_SM else "memory_mhz"]) for line in TRACE)


def nvmlDeviceGetPowerUsage(_: str) -> int:
    """Milliwatts."""
    return int(_now()["power_mw"])


def nvmlDeviceGetEnforcedPowerLimit(_: str) -> int:
    """Milliwatts."""
    return 350_000


def nvmlDeviceGetTemperature(_: str, __: int) -> int:
    """Degrees Celsius, whole ones."""
    return int(_now()["temperature_c"])


def nvmlDeviceGetCurrentClocksEventReasons(_: str) -> int:
    """No reason to be slow."""
    return int(_now()["reasons"])


def nvmlDeviceGetComputeRunningProcesses(_: str) -> list[SimpleNamespace]:
    """The program alone, for which a process of its own may ask."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    asked_for = spec is not None and spec.name.endswith(".poller")
    return [SimpleNamespace(pid=os.getppid() if asked_for else os.getpid())]


def nvmlDeviceGetTotalEnergyConsumption(_: str) -> int:
    """Millijoules since the driver was loaded."""
    return int(1000 * WATTS * time.monotonic())


def nvmlDeviceGetViolationStatus(_: str, __: int) -> SimpleNamespace:
    """Never held down."""
    return SimpleNamespace(violationTime=0)


def __getattr__(name: str) -> Any:
    """Any other question is one that this driver does not answer."""
    if not name.startswith("nvmlDevice"):
        raise AttributeError(name)

    def unsupported(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    return unsupported
