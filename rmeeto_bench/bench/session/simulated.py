"""Arms without models, for simulated devices: their true cost from the FLOPs of the model and the rates of the GPU.

The numbers say nothing about a GPU. They have the shape of real ones (merging a little is slower than not merging, as in
the paper's Table 12), so that the whole flow can be seen, and tested, without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rmeeto_bench.bench.plan.estimate import profile_of, true_seconds
from rmeeto_bench.bench.plan.plan import BenchPlan, Cell, batch_size_for, precision_for
from rmeeto_bench.bench.store.store import Facts, Probe
from rmeeto_bench.models.sizes import config


class SimulatedWorkload:
    """The arms of a group on a simulated device: no weights, no data, no accuracy."""

    data_name = None
    views = 1
    evaluated = 0

    def __init__(self, plan: BenchPlan, device: Any, arms: Sequence[Cell]) -> None:
        self._plan, self._device = plan, device
        self._profile = profile_of(device)
        self._cells = {cell.name: cell for cell in arms}
        self.batch_size = batch_size_for(plan, "sim")

    @property
    def baseline(self) -> str:
        """The first arm."""
        return next(iter(self._cells))

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

    def account(self) -> str:
        """No kernels, nothing to say."""
        return ""

    def probes(self) -> dict[str, Probe]:
        """No model, no answers."""
        return {}
