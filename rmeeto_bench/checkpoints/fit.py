"""Fit tensors to a model: resize its positions, check the rest, and name the one mistake that explains a mismatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from rmeeto_bench.checkpoints.family import describe
from rmeeto_bench.checkpoints.positions import resize_pos_embed
from rmeeto_bench.errors import CheckpointError


def _first(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


SHAPE_HINTS = {
    "head.weight": "the number of classes differs; build the model with num_classes={0[0]}",
    "pos_embed": "it was made for {0[1]} tokens, the model has {1[1]}; give the model the same img_size, patch_size and stride",
    "patch_embed.proj.weight": "it takes other patches; an image model cannot load a video checkpoint, nor another patch size",
    "cls_token": "it is a model of width {0[2]}, this one has {1[2]}; take the checkpoint of this size",
}


STRIDE_8 = 730  # tokens of Vim's models with a patch every 8 px, at 224 px; also of 27 x 27 patches without overlap
STRIDE_8_HINT = (
    "its 730 positions are those of Vim's models with a patch every 8 px; for such weights take vim_tiny_plus or vim_small_plus"
)


RESIZED = "are resized to"  # what a note about positions has in it


def fitted(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state for a model on images of another size than its weights were made for, and what the user should know.

    Positions are resized where the model's config names the size they were made for. Raises `CheckpointError` as
    `check_state`.
    """
    given, notes = dict(state), list[str]()
    sized, positions = getattr(model, "config", None), state.get("pos_embed")
    if sized is None or positions is None or positions.dim() != 3:
        check_state(given, model, path)
        return given, notes
    wanted = model.state_dict()["pos_embed"].shape[1]
    if sized.made_for and positions.shape[1] == replace(sized, img_size=sized.made_for).side ** 2 + 1 != wanted:
        resized = resize_pos_embed(positions.float(), wanted - 1, cls_first=sized.cls_position == 0)
        given["pos_embed"] = resized.to(positions.dtype)
        notes.append(f"{path.name}: positions made for {sized.made_for} px {RESIZED} {sized.img_size} px")
    if positions.shape[1] == wanted == STRIDE_8 and sized.side * sized.patch_size == sized.img_size:
        notes.append(f"{path.name}: {STRIDE_8_HINT}")
    check_state(given, model, path)
    return given, notes


def check_state(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Raise `CheckpointError` naming the one mistake that explains a mismatch between file and model."""
    wanted = model.state_dict()
    for key in ("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight", *wanted):
        if key in wanted and key in state and wanted[key].shape != state[key].shape:
            found, own = tuple(state[key].shape), tuple(wanted[key].shape)
            hint = SHAPE_HINTS.get(key, "it belongs to another model").format(found, own)
            if key == "pos_embed" and found[1] == STRIDE_8:
                hint = STRIDE_8_HINT
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
