"""Building the arms that are not ours: models of timm, and what the user's own function returns."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting, arm_of
from rmeeto_bench.checkpoints.reader import Provenance, read_checkpoint
from rmeeto_bench.cost.counted import counted_gflops
from rmeeto_bench.errors import ArmError, CheckpointError, UsageError, in_one_line
from rmeeto_bench.models.foreign import ForeignConfig, ForeignModel, Guarded
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.sizes import TIMM


def build_other(cell: Cell, setting: Setting, resolved: Resolved) -> BuiltArm:
    """An arm of timm or of the user's own code on its device, whose failures `Guarded` keeps.

    Raises `UsageError` for a function that is not there, and whatever building raises.
    """
    weights, provenance = resolved.weights[cell.name], None
    sized = ForeignConfig(resolved.input_shape, resolved.num_classes)
    if resolved.program.startswith(TIMM):
        inner, provenance = _of_timm(resolved, cell, setting)
        model = ForeignModel(inner, sized, "timm")
    else:
        made = _placed(_called(resolved.program, setting), setting)
        shape = tuple(getattr(made, "input_shape", sized.input_shape))
        model = ForeignModel(made, replace(sized, input_shape=shape), "own")
    model.eval().requires_grad_(requires_grad=False)
    return arm_of(cell, model, setting, weights, provenance)


def _of_timm(resolved: Resolved, cell: Cell, setting: Setting) -> tuple[nn.Module, Provenance | None]:
    from rmeeto_bench.models.timm_arms import make

    weights = resolved.weights[cell.name]
    read = None if weights.path is None else read_checkpoint(weights.path, ema=weights.ema)
    if read is not None and read.provenance.sha256 != weights.sha256:
        raise CheckpointError(f"{weights.path} was changed after the run began; put the file back, or start another run")
    model = make(resolved.program.removeprefix(TIMM), None if read is None else read.state_dict)
    return model.to(setting.device.torch_device, setting.dtype), None if read is None else read.provenance


def _called(target: str, setting: Setting) -> Any:
    """What the user's function returns."""
    function, arguments = imported(target), (setting.device.torch_device, setting.dtype)
    return function(*arguments) if takes_device(target) else function()


def takes_device(target: str) -> bool:
    """Whether the user's function takes (device, dtype), or nothing. Raises `UsageError` for another one, or none."""
    function = imported(target)
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) not in (0, 2):
        raise UsageError(f"{target} takes {len(needed)} arguments; an arm's function takes none, or (device, dtype)")
    return bool(needed)


def imported(target: str) -> Callable[..., Any]:
    """The function behind MODULE:FUNCTION, found from the current folder, too. Raises `UsageError`."""
    module, _, name = target.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise UsageError(f"--arm {target} cannot be imported ({in_one_line(error)}); give MODULE:FUNCTION") from error
    finally:
        sys.path[:] = [*(place for place in sys.path if place != here), here]  # for what it imports later; it hides no package
    if not callable(found):
        raise UsageError(f"--arm {target} is no function but {type(found).__name__}; give MODULE:FUNCTION")
    return found


def _placed(made: Any, setting: Setting) -> Callable[[Tensor], Tensor]:
    """A module on the device in the working precision; a callable as it is."""
    if isinstance(made, nn.Module):
        return made.to(setting.device.torch_device, setting.dtype)
    if not callable(made):
        raise ArmError(f"its function returned {type(made).__name__}, not a module or a callable for a batch")
    return made


def gflops_of(arm: BuiltArm, setting: Setting) -> float | None:
    """GFLOPs of an image where the program is a module; nobody can look into another callable."""
    inner = arm.model.inner if isinstance(arm.model, ForeignModel) else None
    if not isinstance(inner, nn.Module):
        return None
    with nullcontext() if arm.compiled is None else arm.compiled.switched_off():
        return counted_gflops(inner, arm.input_shape, setting.dtype)


def refused_graph(arm: BuiltArm) -> str:
    """Why an arm of others is not replayed from a CUDA graph though all others are; empty if it is, or need not be."""
    inner = arm.forward.forward if isinstance(arm.forward, Guarded) else None
    refused = inner.refused if isinstance(inner, GraphedForward) else None
    return "" if refused is None else f"it cannot be captured in a CUDA graph ({refused}); --no-graphs runs every arm without"
