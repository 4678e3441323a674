"""The models by name, and `create_model`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import check_state, load_checkpoint, read_checkpoint
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models import videomamba
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.pruned import PrunedVim
from rmeeto_bench.models.sizes import DeitConfig, VimConfig
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.pruning import Pruning

BUNDLED = Path(__file__).parents[1] / "bundled" / "vim_nano"

VIM: dict[str, VimConfig] = {
    "vim_tiny": VimConfig(embed_dim=192),
    "vim_small": VimConfig(embed_dim=384),
    "vim_base": VimConfig(embed_dim=768),
    # Bundled: 14 x 14 patches and depth 24 give the paper's 197 tokens and its table of r and ratio on 28 x 28 images.
    "vim_nano": VimConfig(img_size=28, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, d_state=8, drop_path_rate=0.0),
}


DEIT: dict[str, DeitConfig] = {
    "deit_tiny": DeitConfig(),
    "deit_small": DeitConfig(embed_dim=384, num_heads=6),
    "deit_base": DeitConfig(embed_dim=768, num_heads=12),
}

Sizes = VimConfig | DeitConfig
MODELS: dict[str, Sizes] = {**VIM, **videomamba.IMAGE, **videomamba.VIDEO, **DEIT}


def config(name: str, **sizes: Any) -> Sizes:
    """The sizes of a model by name, with any of them overridden. Raises `UsageError` for an unknown name or size."""
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}; choose {', '.join(MODELS)}")
    known = MODELS[name]
    try:
        return replace(known, **sizes)
    except TypeError:
        unknown = sorted(set(sizes) - {field.name for field in fields(known)})
        raise UsageError(f"{name} has no size {', '.join(unknown)}; see {type(known).__name__} for those there are") from None


def bundled_checkpoint(name: str, r: int) -> Path | None:
    """The checkpoint shipped for this model at this r, if there is one."""
    path = BUNDLED / f"{name}_r{r}.safetensors"
    return path if path.is_file() else None


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
