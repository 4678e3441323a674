"""GPUs that torch can use. Alone in its module: importing torch takes seconds, and simulated devices need none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.measure.devices.nvml import NvmlTelemetry, snapshot, spelled
from rmeeto_bench.measure.devices.telemetry import Telemetry


class CudaDevice:
    """One CUDA GPU, timed with events on the current stream and named by UUID: indices change with the environment."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index
        properties = torch.cuda.get_device_properties(index)
        self.name = properties.name
        self.memory_gib = properties.total_memory / 2**30
        self.id = f"cuda:{spelled(str(properties.uuid)) if hasattr(properties, 'uuid') else index}"

    @property
    def torch_device(self) -> torch.device:
        """This GPU by its present index."""
        return torch.device("cuda", self.index)

    def details(self) -> dict[str, Any]:
        """Memory, compute capability, multiprocessors, whether it is cut into MIG slices."""
        properties = torch.cuda.get_device_properties(self.index)
        return {
            "index": self.index,
            "memory_gib": round(self.memory_gib, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "mig": bool(snapshot(self.id.removeprefix("cuda:")).get("mig")),
        }

    def time_block(self, step: Callable[[], Any], steps: int) -> tuple[float, float]:
        """Event time, beside the wall time of enqueueing and the final wait."""
        with torch.cuda.device(self.index):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start = time.perf_counter()
            first.record()
            for _ in range(steps):
                step()
            last.record()
            torch.cuda.synchronize()
            wall = time.perf_counter() - start
            return first.elapsed_time(last) / 1000, wall

    def clock(self) -> float:
        """Real time."""
        return time.perf_counter()

    def telemetry(self) -> Telemetry:
        """NVML, and the growth of torch's allocator on this GPU."""
        return NvmlTelemetry(self.id.removeprefix("cuda:"), reserved=lambda: torch.cuda.memory_reserved(self.index))


def absence() -> str:
    """Why torch has no GPU, in its own first words."""
    try:
        torch.cuda.init()
    except Exception as error:  # a build without CUDA, no driver, one too old: each is another type
        return str(error).splitlines()[0].partition(". ")[0].rstrip(".")
    return "none is visible; look at CUDA_VISIBLE_DEVICES"


def _found() -> str:
    count = torch.cuda.device_count()
    if count == 0:
        return f"this machine has no CUDA GPU that torch can use ({absence()})"
    return "there are " + ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(count))


def gpus() -> list[CudaDevice]:
    """All GPUs that torch can use."""
    return [CudaDevice(i) for i in range(torch.cuda.device_count())]


def gpu(word: str, devices: list[CudaDevice]) -> CudaDevice:
    """The GPU of this index or UUID. Raises `UnavailableError` if it is not there."""
    for device in devices:
        uuid = device.id.removeprefix("cuda:")
        if word == str(device.index) or word[4 * word.startswith(("GPU-", "MIG-")) :] == uuid.removeprefix("MIG-"):
            return device
    raise UnavailableError(f"no GPU {word}: {_found()}; use --gpus none for the CPU")
