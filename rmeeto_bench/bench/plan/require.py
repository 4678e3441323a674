"""Checks before anything starts, in a dry run too, that a plan finds its weights, images and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmeeto_bench.bench.plan.plan import BenchPlan, cells
from rmeeto_bench.bench.plan.weights import choose
from rmeeto_bench.errors import UsageError
from rmeeto_bench.records.run import DeviceRecord


def require(plan: BenchPlan, devices: Sequence[DeviceRecord]) -> dict[str, Path | None]:
    """The file of every arm (None: random weights), fetched if it has to be; simulated devices need none.

    Raises `CheckpointError`, `DataError` or `UsageError`.
    """
    from rmeeto_bench.bench.session.workload import load_data  # needs torch
    from rmeeto_bench.kernels.registry import BACKENDS

    if plan.backend != "auto" and plan.backend not in BACKENDS:
        raise UsageError(f"unknown backend {plan.backend!r}; choose auto, {', '.join(BACKENDS)}")
    simulated = all(device.kind == "sim" for device in devices)
    files: dict[str, Path | None] = {}
    for model in dict.fromkeys(plan.models):
        if plan.data is not None:
            load_data(plan, model)
        for cell in () if simulated else cells(plan, model):
            files[cell.name] = choose(cell, plan.checkpoints).path
    return files
