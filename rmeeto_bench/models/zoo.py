"""The models by name, and `create_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.fit import check_state
from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import load_checkpoint, read_checkpoint
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models import videomamba
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.pruned import PrunedVim
from rmeeto_bench.models.sizes import DeitConfig, Sizes, VimConfig, config
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.reduction.config import Pruning, ReductionConfig


def build(sized: Sizes, reduction: ReductionConfig, backend: str = "auto", pruning: Pruning | None = None) -> ReducedModel:
    """A model of these sizes with random weights, by its family. Raises `UsageError`."""
    if isinstance(sized, DeitConfig):
        from rmeeto_bench.models.deit import Deit  # timm takes seconds to import, and only this family needs it

        if pruning is not None:
            raise UsageError("the pruning baselines are those of Mamba models; a DeiT merges or prunes by reduction")
        return Deit(sized, reduction, backend)
    return Vim(sized, reduction, backend) if pruning is None else PrunedVim(sized, pruning, backend)


def create_model(
    name: str,
    *,
    r: int | None = None,
    reduction_ratio: float | None = None,
    reduction: ReductionConfig | None = None,
    backend: str = "auto",
    checkpoint: str | Path | None = None,
    pruning: Pruning | None = None,
    **sizes: Any,
) -> ReducedModel:
    """Build a model, in eval mode, on the CPU in fp32.

    Say how much to merge by one of `r` (tokens per merge), `reduction_ratio` (the nearest r is taken; the realised
    ratio is `model.reduction_ratio`) or a whole `ReductionConfig`; by none of them for the unmerged baseline.
    `checkpoint` is a file, a name of the public checkpoints (`models` lists them) or `bundled`; without one the weights
    are random. `pruning` takes one of the rival methods instead (`reduction.pruning`). `sizes` override the fields of
    `VimConfig` or `DeitConfig`. Raises `UsageError` or `CheckpointError`.
    """
    if sum(given is not None for given in (r, reduction_ratio, reduction, pruning)) > 1:
        raise UsageError("give one of r, reduction_ratio, reduction and pruning, not several")
    sized = config(name, **sizes)
    if reduction_ratio is not None:
        r, _ = sized.r_for_ratio(reduction_ratio)
    chosen = reduction or ReductionConfig(r=r or 0)
    model = build(sized, chosen, backend, pruning)
    if checkpoint == "bundled":
        path = bundled_checkpoint(name, chosen.r)
        if path is None:
            raise UsageError(f"no bundled checkpoint for {name} at r = {chosen.r}; only vim_nano ships with weights")
        load_checkpoint(model, path)
    elif checkpoint is not None:
        _load(model, resolve(checkpoint))
    return model.eval()


def _load(model: ReducedModel, path: Path) -> None:
    """Load a file; an image model's weights are inflated for a model of clips."""
    sized = model.config
    if isinstance(sized, VimConfig) and sized.frames:
        state = videomamba.fitted(read_checkpoint(path).state_dict, sized)
        check_state(state, model, path)
        model.load_state_dict(state)
        return
    load_checkpoint(model, path)
