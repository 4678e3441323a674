"""What the driver says about a GPU, read through NVML and never set. Without a driver the answer is the reason why not."""

from __future__ import annotations

from typing import Any

import pynvml


def snapshot(uuid: str, nvml: Any = pynvml) -> dict[str, Any]:
    """Driver, clocks (MHz), power (W), temperature (deg C) and foreign compute processes of a GPU, for a run's record.

    `uuid` with or without the `GPU-` prefix. `{"unavailable": reason}` where NVML or the GPU is not there.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return {"unavailable": str(error)}
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID("GPU-" + uuid.removeprefix("GPU-"))
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "sm_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "power_limit_w": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "compute_pids": [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)],
        }
    except nvml.NVMLError as error:
        return {"unavailable": str(error)}
    finally:
        nvml.nvmlShutdown()
