"""The models by name, and `create_model`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import load_checkpoint
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import r_for_ratio

BUNDLED = Path(__file__).parents[1] / "bundled" / "vim_nano"

VIM: dict[str, VimConfig] = {
    "vim_tiny": VimConfig(embed_dim=192),
    "vim_small": VimConfig(embed_dim=384),
    "vim_base": VimConfig(embed_dim=768),
    # Bundled: 14 x 14 patches and depth 24 give the paper's 197 tokens and its table of r and ratio on 28 x 28 images.
    "vim_nano": VimConfig(img_size=28, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, d_state=8, drop_path_rate=0.0),
}


def config(name: str, **sizes: Any) -> VimConfig:
    """The sizes of a model by name, with any of them overridden. Raises `UsageError` for an unknown name or size."""
    if name not in VIM:
        raise UsageError(f"unknown model {name!r}; choose {', '.join(VIM)}")
    try:
        return replace(VIM[name], **sizes)
    except TypeError:
        unknown = sorted(set(sizes) - set(VimConfig.__dataclass_fields__))
        raise UsageError(f"{name} has no size {', '.join(unknown)}; see VimConfig for those there are") from None


def bundled_checkpoint(name: str, r: int) -> Path | None:
    """The checkpoint shipped for this model at this r, if there is one."""
    path = BUNDLED / f"{name}_r{r}.safetensors"
    return path if path.is_file() else None


def create_model(
    name: str,
    *,
    r: int | None = None,
    reduction_ratio: float | None = None,
    reduction: ReductionConfig | None = None,
    backend: str = "auto",
    checkpoint: str | Path | None = None,
    **sizes: Any,
) -> Vim:
    """Build a model, in eval mode, on the CPU in fp32.

    Say how much to merge by one of `r` (tokens per merge), `reduction_ratio` (the nearest r is taken; the realised
    ratio is `model.reduction_ratio`) or a whole `ReductionConfig`; by none of them for the unmerged baseline.
    `checkpoint` is a file, a name of the public checkpoints (`models` lists them) or `bundled`; without one the weights
    are random. `sizes` override the fields of `VimConfig`. Raises `UsageError` or `CheckpointError`.
    """
    if sum(given is not None for given in (r, reduction_ratio, reduction)) > 1:
        raise UsageError("give one of r, reduction_ratio and reduction, not several")
    sized = config(name, **sizes)
    if reduction_ratio is not None:
        r, _ = r_for_ratio(reduction_ratio, depth=sized.depth, initial_tokens=sized.num_tokens)
    chosen = reduction or ReductionConfig(r=r or 0)
    model = Vim(sized, chosen, backend)
    if checkpoint == "bundled":
        path = bundled_checkpoint(name, chosen.r)
        if path is None:
            raise UsageError(f"no bundled checkpoint for {name} at r = {chosen.r}; only vim_nano ships with weights")
        load_checkpoint(model, path)
    elif checkpoint is not None:
        load_checkpoint(model, resolve(checkpoint))
    return model.eval()
