"""Read the driver's view of a GPU through NVML; nothing is ever set. Without a driver the answer is the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pynvml

from rmeeto_bench.measure.devices.poller import Poller, Sample

ABSENT = (AttributeError, TypeError, ValueError)  # what a driver or pynvml older than a question answers
ThermalAndPower = tuple[int | None, int | None]


def gpu_uuid(uuid: str) -> str:
    """The UUID as NVML spells it, with or without its prefix given (`GPU-`, or `MIG-` of a slice)."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def spelled(uuid: str, nvml: Any = pynvml) -> str:
    """A UUID as torch gives it, without a prefix; with `MIG-` before it if it is that of a slice and of no GPU."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return uuid
    try:
        for name in (gpu_uuid(uuid), f"MIG-{uuid}"):
            try:
                nvml.nvmlDeviceGetHandleByUUID(name)
            except nvml.NVMLError:
                continue
            return name.removeprefix("GPU-")
    finally:
        nvml.nvmlShutdown()
    return uuid


def _asked(nvml: Any, question: Callable[[], Any]) -> Any:
    """The answer to a query, or None if this GPU or driver does not support it."""
    try:
        return question()
    except (nvml.NVMLError, *ABSENT):
        return None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def snapshot(uuid: str, nvml: Any = pynvml) -> dict[str, Any]:
    """State and settings of a GPU for a run's record: driver, VBIOS, clocks (MHz), power and its limits (W), temperature
    (deg C), ECC, MIG, persistence, PCIe link, display, and the processes that compute on it.

    What the GPU does not tell is left out. `{"unavailable": reason}` where NVML or the GPU is not there.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"unavailable": str(error)}
    try:
        found = _snapshot(nvml, nvml.nvmlDeviceGetHandleByUUID(gpu_uuid(uuid)))
        return found | ({"mig": True} if uuid.startswith("MIG-") else {})
    except nvml.NVMLError as error:
        return {"unavailable": str(error)}
    finally:
        nvml.nvmlShutdown()


def _snapshot(nvml: Any, handle: Any) -> dict[str, Any]:
    limits = _asked(nvml, lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)) or (None, None)
    questions: dict[str, Callable[[], Any]] = {
        "driver": nvml.nvmlSystemGetDriverVersion,
        "vbios": lambda: nvml.nvmlDeviceGetVbiosVersion(handle),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "power_w": lambda: _watts(nvml.nvmlDeviceGetPowerUsage(handle)),
        "power_limit_w": lambda: _watts(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)),
        "power_limit_default_w": lambda: _watts(nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)),
        "power_limit_least_w": lambda: _watts(limits[0]),
        "power_limit_most_w": lambda: _watts(limits[1]),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "ecc": lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
        "mig": lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
        "persistence": lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle)),
        "display": lambda: bool(nvml.nvmlDeviceGetDisplayActive(handle)),
        "pcie_generation": lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "pcie_generation_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "pcie_width": lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
        "pcie_width_max": lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        "compute_pids": lambda: _others(nvml, handle),
    }
    answers = {name: _asked(nvml, question) for name, question in questions.items()}
    return {name: answer for name, answer in answers.items() if answer is not None}


def _others(nvml: Any, handle: Any) -> list[int] | None:
    """The processes on the GPU but for this one, if there are any."""
    return [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if one.pid != os.getpid()] or None


def violations(nvml: Any, handle: Any) -> ThermalAndPower:
    """Nanoseconds since the driver was loaded that heat and the power cap held the clock down; None where unknown."""

    def one(policy: str, field: str) -> int | None:
        status = _asked(nvml, lambda: nvml.nvmlDeviceGetViolationStatus(handle, getattr(nvml, policy)))
        if status is not None:
            return int(status.violationTime)
        values = _asked(nvml, lambda: nvml.nvmlDeviceGetFieldValues(handle, [getattr(nvml, field)]))
        return int(values[0].value.ullVal) if values and values[0].nvmlReturn == 0 else None

    return (
        one("NVML_PERF_POLICY_THERMAL", "NVML_FI_DEV_PERF_POLICY_THERMAL"),
        one("NVML_PERF_POLICY_POWER", "NVML_FI_DEV_PERF_POLICY_POWER"),
    )


def foreign(pids: Sequence[int], own: int) -> list[int]:
    """The processes on the GPU that are not this one.

    Inside a container the driver gives the host's numbers, none of which is ours: then one of the list is taken to be us.
    """
    others = sorted(set(pids))
    return [pid for pid in others if pid != own] if own in others else others[1:]


def summarise(samples: Sequence[Sample], own_pid: int) -> dict[str, Any]:
    """The telemetry keys that come from samples taken during a block."""
    seen: dict[str, Any] = {"samples": len(samples)}
    clocks = [sample["sm_mhz"] for sample in samples if sample.get("sm_mhz") is not None]
    if clocks:
        seen |= {"sm_mhz_mean": round(sum(clocks) / len(clocks)), "sm_mhz_min": min(clocks)}
    for key in ("memory_mhz", "temperature_c"):
        values = [sample[key] for sample in samples if sample.get(key) is not None]
        if values:
            seen[key] = values[-1]
    power = [(sample["time"], sample["power_mw"] / 1000) for sample in samples if sample.get("power_mw") is not None]
    if power:
        seen["power_w"] = round(sum(watts for _, watts in power) / len(power), 1)
    reasons = [sample["reasons"] for sample in samples if sample.get("reasons") is not None]
    if reasons:
        seen["reasons"] = 0
        for value in reasons:
            seen["reasons"] |= value
    lists = [sample["pids"] for sample in samples if sample.get("pids") is not None]
    if lists:
        seen["foreign_pids"] = sorted({pid for pids in lists for pid in foreign(pids, own_pid)})
    return seen


class NvmlTelemetry:
    """Counters read directly before and after each block; clocks, power and processes sampled by another process meanwhile.

    `reserved` gives the bytes torch's allocator holds. `{"unavailable": reason}` instead of NVML's part where there is no
    driver, or the sampling process ended.
    """

    def __init__(
        self,
        uuid: str,
        *,
        reserved: Callable[[], int] = lambda: 0,
        nvml: Any = pynvml,
        poller: Poller | None = None,
    ) -> None:
        self._nvml, self._reserved = nvml, reserved
        self._unavailable, self._handle = "", None
        self._before: tuple[int | None, ThermalAndPower, int] = (None, (None, None), 0)
        self._poller = poller
        self._open = False
        try:
            nvml.nvmlInit()
            self._open = True
            self._handle = nvml.nvmlDeviceGetHandleByUUID(gpu_uuid(uuid))
        except nvml.NVMLError as error:
            self._unavailable = str(error)
        else:
            self._poller = poller or Poller(gpu_uuid(uuid))

    def _counters(self) -> tuple[int | None, ThermalAndPower]:
        nvml, handle = self._nvml, self._handle
        energy = _asked(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        return energy, violations(nvml, handle)

    def before_block(self) -> None:
        """Start sampling, read the counters last."""
        if self._unavailable:
            self._before = (None, (None, None), self._reserved())
            return
        if self._poller is not None:
            self._poller.start()
        self._before = (*self._counters(), self._reserved())

    def after_block(self) -> dict[str, Any]:
        """Read the counters first, then the samples."""
        energy, (thermal, power), reserved = self._before
        seen: dict[str, Any] = {}
        if not self._unavailable and self._poller is not None:
            energy_after, (thermal_after, power_after) = self._counters()
            samples = self._poller.stop()
            if samples is None:
                seen["unavailable"] = "the process that samples NVML ended"
            else:
                seen |= summarise(samples, os.getpid())
            for key, first, last in (
                ("violation_thermal_ns", thermal, thermal_after),
                ("violation_power_ns", power, power_after),
            ):
                if first is not None and last is not None:
                    seen[key] = last - first
            if energy is not None and energy_after is not None:
                seen["energy_j"] = (energy_after - energy) / 1000  # the counter is in millijoules
        elif self._unavailable:
            seen["unavailable"] = self._unavailable
        seen["reserved_delta_bytes"] = max(0, self._reserved() - reserved)
        return seen

    def close(self) -> None:
        """End the sampling process and release NVML."""
        if self._poller is not None:
            self._poller.close()
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()
