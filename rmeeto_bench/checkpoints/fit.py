"""Check that tensors fit a model; if they do not, name the one mistake that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rmeeto_bench.checkpoints.family import describe
from rmeeto_bench.errors import CheckpointError


def _first(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


SHAPE_HINTS = {
    "head.weight": "the number of classes differs; build the model with num_classes={0[0]}",
    "pos_embed": "it was made for {0[1]} tokens, the model has {1[1]}; build the model with the same img_size and patch_size",
    "patch_embed.proj.weight": "it takes other patches; an image model cannot load a video checkpoint, nor another patch size",
    "cls_token": "it is a model of width {0[2]}, this one has {1[2]}; take the checkpoint of this size",
}


def check_state(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Raise `CheckpointError` naming the one mistake that explains a mismatch between file and model."""
    wanted = model.state_dict()
    for key in ("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight", *wanted):
        if key in wanted and key in state and wanted[key].shape != state[key].shape:
            found, own = tuple(state[key].shape), tuple(wanted[key].shape)
            hint = SHAPE_HINTS.get(key, "it belongs to another model").format(found, own)
            raise CheckpointError(f"{path} does not fit: {key} is {found}, the model needs {own}; {hint}")
    for key in wanted:
        if key in state and wanted[key].is_floating_point() and not state[key].is_floating_point():
            kind = str(state[key].dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{path} does not fit: {key} holds {kind}, so it is quantised; give the weights it was made from"
            )
    missing = [key for key in wanted if key not in state]
    if missing:
        raise CheckpointError(f"{path} lacks {_first(missing)}; it is {describe(state)}, or cut short")
    extra = [key for key in state if key not in wanted]
    if extra:
        raise CheckpointError(f"{path} also holds {_first(extra)}; it is {describe(state)}, larger than the model")
