"""Check before anything starts, in a dry run too, that a plan finds its weights, images and kernels."""

from __future__ import annotations

from collections.abc import Sequence

from rmeeto_bench.bench.plan.others import OWN, resolve_own, resolve_timm
from rmeeto_bench.bench.plan.plan import TRAIN, BenchPlan, group_cells
from rmeeto_bench.bench.plan.resolve import Resolved, resolve, without_weights
from rmeeto_bench.errors import CheckpointError, DataError, UsageError
from rmeeto_bench.models.sizes import COMPILE, TIMM, is_other, uncompiled
from rmeeto_bench.records.run import DeviceRecord


def require(plan: BenchPlan, devices: Sequence[DeviceRecord]) -> dict[str, Resolved]:
    """Every model of the plan, resolved: its files are fetched and read; simulated devices need none.

    Raises `CheckpointError`, `DataError` or `UsageError`.
    """
    if plan.backend != "auto":
        from rmeeto_bench.kernels.registry import BACKENDS  # needs torch

        if plan.backend not in BACKENDS:
            raise UsageError(f"unknown backend {plan.backend!r}; choose auto, {', '.join(BACKENDS)}")
    simulated = all(device.kind == "sim" for device in devices)
    if simulated and plan.accuracy_only:
        raise UsageError("a simulated device classifies no images; evaluate on --gpus none or on a GPU")
    if plan.what == TRAIN and (plan.inputs == "both" or any(map(is_other, plan.names))):
        raise UsageError("--what train times our own models on one kind of inputs; leave out --arm, timm: and --inputs both")
    if plan.what == TRAIN and simulated:
        raise UsageError("a simulated device trains nothing; leave --what out")
    for group in plan.groups:
        group_cells(plan, group)  # the baseline is there
    found: dict[str, Resolved] = {}
    for name in dict.fromkeys(plan.names):
        found[name] = _resolved(plan, name, found, simulated=any(device.kind == "sim" for device in devices))
    for name, weights in (item for model in found.values() for item in model.weights.items()):
        if plan.accuracy_only and weights.path is None and weights.label != OWN:
            raise CheckpointError(f"{name} has no weights to evaluate; give --checkpoints a folder, a file or zoo")
    classes = {name: resolved.num_classes for name, resolved in found.items()}
    if plan.data is not None and len(set(classes.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in classes.items())
        raise UsageError(
            f"the models have different numbers of classes ({told}): one --data cannot be for all; evaluate them apart"
        )
    if plan.data is not None or plan.accuracy_only or plan.fed:
        from rmeeto_bench.bench.session.workload import load_data  # needs torch

        without = [name for name, resolved in found.items() if load_data(plan, resolved) is None]
        if without and (plan.accuracy_only or (plan.fed and len(without) == len(found))):
            raise DataError(f"no images for {', '.join(without)} ship with rmeeto-bench; give --data")
    return found


def _resolved(plan: BenchPlan, name: str, before: dict[str, Resolved], *, simulated: bool) -> Resolved:
    """A model of the plan; `before`: those that come before it."""
    if simulated and (is_other(name) or name.startswith(COMPILE)):
        raise UsageError(f"a simulated device knows only what our models cost, not {name}; measure it on a real one")
    if simulated:
        return without_weights(plan, name)
    if uncompiled(name).startswith(TIMM):
        return resolve_timm(plan, name)
    return resolve_own(plan, name, before.values()) if name in plan.own else resolve(plan, name)
