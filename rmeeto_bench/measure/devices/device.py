"""Devices behind one protocol: a device runs a block of steps and returns how long it took."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rmeeto_bench.cpus import within_quota
from rmeeto_bench.errors import UsageError
from rmeeto_bench.measure.devices.cpu_telemetry import CpuTelemetry
from rmeeto_bench.measure.devices.simulated import SimDevice
from rmeeto_bench.measure.devices.telemetry import Telemetry
from rmeeto_bench.profiles import GpuProfile, load_profiles

if TYPE_CHECKING:
    import torch  # seconds to import, which a run on simulated devices does without


class Device(Protocol):
    """A place to measure on. `id` is stable over runs: `cpu`, `cuda:<UUID>` or `sim:<profile>`."""

    id: str
    name: str
    kind: str

    @property
    def torch_device(self) -> torch.device:
        """The torch device for models and inputs."""
        ...

    def details(self) -> dict[str, Any]:
        """Details for the record: memory, capability, threads."""
        ...

    def time_block(self, step: Callable[[], Any], steps: int) -> tuple[float, float]:
        """Enqueue `steps` calls without synchronising in between; (device seconds, wall seconds) of all of them."""
        ...

    def clock(self) -> float:
        """The time base of the loop in seconds: real, or virtual on a simulated device."""
        ...

    def telemetry(self) -> Telemetry:
        """A new watcher of this device; close it."""
        ...


class CpuDevice:
    """The processor. Device time is wall time: nothing is asynchronous."""

    id = "cpu"
    kind = "cpu"

    def __init__(self) -> None:
        self.name = cpu_name()

    @property
    def torch_device(self) -> torch.device:
        """The CPU."""
        import torch

        return torch.device("cpu")

    def details(self) -> dict[str, Any]:
        """Threads and cores."""
        import torch

        return {"threads": within_quota(torch.get_num_threads()), "cores": os.cpu_count() or 0, "machine": platform.machine()}

    def time_block(self, step: Callable[[], Any], steps: int) -> tuple[float, float]:
        """Wall-clock time of the calls."""
        start = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = time.perf_counter() - start
        return seconds, seconds

    def clock(self) -> float:
        """Real time."""
        return time.perf_counter()

    def telemetry(self) -> Telemetry:
        """Load, clock and what other programs take."""
        import torch

        return CpuTelemetry(torch.get_num_threads())


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _simulated(spec: str, *, seed: int, session: int) -> list[Device]:
    """`sim` or `sim:NAME,NAME`: simulated devices of these profiles, by default one of each GPU in the paper."""
    profiles = load_profiles()
    if spec == "sim":
        columns = {profile.paper_column: profile for profile in reversed(profiles) if profile.paper_column}
        chosen = [profile for profile in profiles if profile in columns.values()]
    else:
        known: dict[str, GpuProfile] = {profile.name: profile for profile in profiles if profile.name != "cpu"}
        names = [name.strip() for name in spec.removeprefix("sim:").split(",")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(f"no profile {unknown[0]!r} to simulate; there are {', '.join(known)}")
        chosen = [known[name] for name in dict.fromkeys(names)]
    return [SimDevice(profile, seed=seed, session=session) for profile in chosen]


def find_devices(spec: str, *, seed: int = 0, session: int = 0) -> list[Device]:
    """The devices behind `--gpus`: `all` (the CPU where there is no GPU), `none` (the CPU), indices or UUIDs; `sim` or
    `sim:rtx4090,h100-sxm` for simulated ones, whose noise follows `seed` and `session`.

    Raises `UnavailableError` for a GPU that was asked for by name and is not there, `UsageError` for an unknown profile.
    """
    if spec == "none":
        return [CpuDevice()]
    if spec == "sim" or spec.startswith("sim:"):
        return _simulated(spec, seed=seed, session=session)
    from rmeeto_bench.measure.devices.cuda import gpu, gpus

    present = gpus()
    if spec == "all":
        return list(present) if present else [CpuDevice()]
    chosen = [gpu(word.strip(), present) for word in spec.split(",")]
    return list({device.id: device for device in chosen}.values())
