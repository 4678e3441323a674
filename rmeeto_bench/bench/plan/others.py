"""Models that are not ours, resolved: timm's by timm's settings, the user's own code by what the run's first model takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.bench.plan.plan import BenchPlan, cells
from rmeeto_bench.bench.plan.resolve import Resolved, Weights
from rmeeto_bench.errors import CheckpointError, UsageError
from rmeeto_bench.models.sizes import TIMM, uncompiled

if TYPE_CHECKING:
    from rmeeto_bench.models.foreign import ForeignConfig

IMAGENET = (3, 224, 224), 1000  # of the user's own code where it stands alone


def resolve_timm(plan: BenchPlan, model: str) -> Resolved:
    """A model of timm, its file read. Raises `UsageError` or `CheckpointError`."""
    from rmeeto_bench.models import timm_arms  # needs torch

    program = uncompiled(model)
    name = program.removeprefix(TIMM)
    found = timm_arms.settings(name)
    sized: ForeignConfig = timm_arms.sizes(found)
    path = _file(plan, name, timm_arms.address(found))
    weights = Weights()
    notes: tuple[str, ...] = (f"{model} has random weights, so it is timed only; --checkpoints zoo takes timm's own",)
    if path is not None:
        from rmeeto_bench.checkpoints.reader import read_checkpoint

        provenance = read_checkpoint(path, ema=plan.ema).provenance
        weights, notes = Weights(path, provenance.sha256, plan.ema, "pretrained"), provenance.notes
    (cell,) = cells(plan, model)
    known: dict[str, Any] = {"input_shape": sized.input_shape, "preprocessing": timm_arms.preprocessing(found)}
    return Resolved(model, (cell,), {cell.name: weights}, sized.num_classes, notes=notes, program=program, **known)


def _file(plan: BenchPlan, name: str, address: str) -> Path | None:
    """timm's own file for `zoo`, a file of the model's name in a folder, or the one file of a run of nothing else."""
    from rmeeto_bench.bench.plan.weights import ZOO, in_folder  # needs torch
    from rmeeto_bench.checkpoints.hub import resolve

    if plan.checkpoints in (None, "none", "bundled"):
        return None
    if plan.checkpoints == ZOO:
        if not address:
            raise CheckpointError(f"timm has no weights of {name} on the hub; give --checkpoints none to time it only")
        return resolve(address)
    if Path(plan.checkpoints).is_dir():
        found = in_folder(Path(plan.checkpoints), name, 0)
        path = None if found is None else found.path
        return path if path is not None and path.name.startswith(name) else None  # r0.pth is one of ours
    return resolve(plan.checkpoints) if set(map(uncompiled, plan.names)) == {TIMM + name} else None


def resolve_own(plan: BenchPlan, name: str, others: Iterable[Resolved]) -> Resolved:
    """An arm of the user's own code: it gets the images of the run's first model, and nothing is imported here."""
    (cell,) = cells(plan, name)
    weights = {cell.name: Weights(label=OWN)}
    first = next(iter(others), None)
    if first is None:
        shape, classes = IMAGENET
        return Resolved(name, (cell,), weights, classes, program=plan.own[name], input_shape=shape)
    known: dict[str, Any] = {"input_shape": first.input_shape, "preprocessing": first.preprocessing}
    return Resolved(name, (cell,), weights, first.num_classes, first.class_names, program=plan.own[name], **known)


OWN = "own code"  # weights of such an arm: whatever its function gives


def check_allowed(plan: BenchPlan, allowed: Iterable[str], what: str) -> None:
    """Raise `UsageError` if a plan would import code that whoever starts it did not name."""
    if any(target == "" for target in plan.own.values()):
        raise UsageError(f"{what} was measured from Python by rb.measure; measure again there")
    missing = [arm for arm in plan.arms if arm not in set(allowed)]
    if missing:
        flags = " ".join(f"--arm {arm}" for arm in missing)
        raise UsageError(f"{what} runs code of somebody's own, which is not imported unasked; look at it, then give {flags}")
