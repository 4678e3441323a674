"""The kind of model that a checkpoint holds, judged by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

VIM_WIDTHS = {192: "tiny", 384: "small", 576: "middle (VideoMamba only)", 768: "base"}


def describe(state: Mapping[str, Tensor]) -> str:
    """A phrase for messages: the family, size and what is special about it, as far as the file tells."""
    width = state["cls_token"].shape[-1] if "cls_token" in state and state["cls_token"].dim() == 3 else None
    size = "" if width is None else f" of width {width}" + (f" ({VIM_WIDTHS[width]})" if width in VIM_WIDTHS else "")
    if any(".attn.qkv." in key for key in state):
        return f"a vision transformer (DeiT){size}"
    if "temporal_pos_embedding" in state:
        return f"a VideoMamba for video{size}"
    if any(key.endswith(".mixer.A_b_log") for key in state):
        return f"a bidirectional Mamba (Vim and VideoMamba have the same tensors){size}"
    if any(key.endswith(".mixer.A_log") for key in state):
        return f"a Mamba of one direction, not a Vim{size}"
    if any(".conv1.weight" in key or ".bn1." in key for key in state):
        return "a convolutional network"
    return "no model this package knows"


def num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Classes of its head."""
    return state["head.weight"].shape[0] if "head.weight" in state else None
