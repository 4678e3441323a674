"""The models by name, and `create_model`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint, find
from rmeeto_bench.checkpoints.fit import fitted
from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.origin import origin_of
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models import videomamba
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.pruned import PrunedVim
from rmeeto_bench.models.sizes import COMPILE, DeitConfig, Sizes, VimConfig, config, uncompiled, without_size
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.reduction.config import Pruning, ReductionConfig


def build(sized: Sizes, reduction: ReductionConfig, backend: str = "auto", pruning: Pruning | None = None) -> ReducedModel:
    """A model of these sizes with random weights, by its family. Raises `UsageError`."""
    if isinstance(sized, DeitConfig):
        from rmeeto_bench.models.deit import Deit  # timm takes seconds to import, and only this family needs it

        if pruning is not None:
            raise UsageError("the pruning baselines are for Mamba models; a DeiT merges or prunes by reduction")
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
    ratio is `model.reduction_ratio`) or a whole `ReductionConfig`; by none of them for what the checkpoint says it was
    trained with, else the unmerged baseline. With an amount alone the way of merging is the checkpoint's, too.
    `checkpoint` is a file, a name of the public checkpoints (`models` lists them) or `bundled`; without one the weights
    are random. `pruning` takes one of the rival methods instead (`reduction.pruning`). `sizes` override the fields of
    `VimConfig` or `DeitConfig`. Raises `UsageError` or `CheckpointError`.
    """
    if sum(given is not None for given in (r, reduction_ratio, reduction, pruning)) > 1:
        raise UsageError("give one of r, reduction_ratio, reduction and pruning, not several")
    if name.startswith(COMPILE):
        raise UsageError(f"{name} is an arm of `run`; the model is {uncompiled(name)}, and torch.compile compiles it")
    sized = config(name, **sizes)
    if reduction_ratio is not None:
        r, _ = sized.r_for_ratio(reduction_ratio)
    chosen = reduction or ReductionConfig(r=r or 0)
    if checkpoint is None:
        return build(sized, chosen, backend, pruning).eval()
    path = _file(name, checkpoint, chosen.r)
    loaded = read_checkpoint(path)
    origin = origin_of(loaded.provenance, find(str(checkpoint)) if path != Path(checkpoint) else None)
    if reduction is None and pruning is None:
        none_given = r is None and origin.reduction is not None
        chosen = origin.reduction if none_given else origin.obeyed(chosen)  # type: ignore[assignment]
    if "num_classes" not in sizes and loaded.provenance.num_classes is not None:
        sized = config(name, num_classes=loaded.provenance.num_classes, **sizes)
    model = build(sized, chosen, backend, pruning)
    state = loaded.state_dict
    if isinstance(sized, VimConfig) and sized.frames:  # an image model's weights are inflated for a model of clips
        state = videomamba.fitted(state, sized)
    state, notes = fitted(state, model, path)
    model.load_state_dict(state)
    told = [] if chosen.r == 0 or pruning is not None else origin.differences(path.name, [chosen])
    for note in (*loaded.provenance.notes, *notes, *told):
        warnings.warn(note, stacklevel=2)
    return model.eval()


def _file(name: str, checkpoint: str | Path, r: int) -> Path:
    """The file behind a path, a public name or `bundled`."""
    if checkpoint != "bundled":
        return resolve(checkpoint)
    path = bundled_checkpoint(without_size(name)[0], r)
    if path is None:
        raise UsageError(f"no bundled checkpoint for {name} at r = {r}; only vim_nano ships with weights")
    return path
