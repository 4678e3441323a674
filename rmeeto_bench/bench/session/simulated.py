"""Arms without models, for simulated devices: their true cost from the FLOPs of the model and the rates of the GPU.

The numbers say nothing about a GPU. They have the shape of real ones (merging a little is slower than not merging, as in
the paper's Table 12), so that the whole flow can be seen, and tested, without a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rmeeto_bench.bench.plan.plan import BenchPlan, Cell, cells
from rmeeto_bench.bench.session.built_arm import batch_size_for, precision_for
from rmeeto_bench.bench.session.workload import Facts
from rmeeto_bench.bench.store.store import Probe
from rmeeto_bench.cost.flops import count_flops
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.models.zoo import config
from rmeeto_bench.profiles import GpuProfile, load_profiles
from rmeeto_bench.reduction.config import ReductionConfig

EFFICIENCY = 0.04  # share of the dense fp16 peak; Table 12's baselines lie between 0.02 (H100) and 0.10 (RTX 4090)
MATCHING = 0.207  # matching and merging cost this share of the baseline, whatever r: Table 12's RTX 4090 column gives it
LAUNCH = 1e-3  # seconds a step takes however small the batch


def true_seconds(cell: Cell, profile: GpuProfile, batch_size: int) -> float:
    """Seconds of one step of a simulated arm."""
    sized = config(cell.model)
    rate = 1000 * EFFICIENCY * profile.fp16_tflops  # GFLOP/s
    baseline = 2 * count_flops(sized, ReductionConfig(), "bidirectional").layers / rate
    layers = 2 * count_flops(sized, cell.reduction, "bidirectional").layers / rate
    return LAUNCH + batch_size * (layers + (MATCHING * baseline if cell.r else 0.0))


def profile_of(device: Device) -> GpuProfile:
    """The GPU a simulated device stands for."""
    name = device.id.removeprefix("sim:")
    return next(profile for profile in load_profiles() if profile.name == name)


class SimulatedWorkload:
    """The arms of one model on a simulated device: no weights, no data, no accuracy."""

    data_name = None

    def __init__(self, plan: BenchPlan, device: Any, model: str) -> None:
        self._plan, self._device = plan, device
        self._profile = profile_of(device)
        self._cells = {cell.name: cell for cell in cells(plan, model)}
        self.batch_size = batch_size_for(plan, "sim")

    @property
    def names(self) -> list[str]:
        """All arms: a simulated device has no memory to run out of."""
        return list(self._cells)

    def step(self, arm: str, batch_size: int, *, noise: bool = False) -> Callable[[], Any]:
        """A step of the simulated device's virtual clock; its inputs make no difference."""
        label = f"{arm}@noise" if noise else arm
        step: Callable[[], Any] = self._device.step(label, true_seconds(self._cells[arm], self._profile, batch_size))
        return step

    def upstream_step(self, arm: str, batch_size: int) -> Callable[[], Any]:
        """The same step."""
        return self.step(arm, batch_size)

    def facts(self) -> dict[str, Facts]:
        """The plan's settings and the schedule."""
        found = {}
        for name, cell in self._cells.items():
            sized = config(cell.model)
            counts = sized.token_counts(cell.reduction)
            precision = precision_for(self._plan, "sim")
            found[name] = Facts(
                precision, self.batch_size, "simulated", "none", token_counts=counts, planned_token_counts=counts
            )
        return found

    def probes(self) -> dict[str, Probe]:
        """No model, no answers."""
        return {}


def baseline_rate(profile: GpuProfile, model: str) -> float:
    """Images/s to plan with where nothing was measured: a guess within a factor of three; NaN for an unknown device."""
    if not profile.fp16_tflops:
        return math.nan
    return 1000 * EFFICIENCY * profile.fp16_tflops / (2 * count_flops(config(model), ReductionConfig(), "bidirectional").layers)
