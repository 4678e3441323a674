"""VideoMamba on images and clips: the sizes, and how weights of a 2-D model become those of a clip's model.

Its mixer is Vim's with the directions summed instead of averaged, and its class token comes first; so the module is
`vim.Vim` and only the numbers differ. (Upstream's image `middle` has 24 blocks; the published one has 32.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import VimConfig

SPREADS = ("center", "repeat")


def fitted(state: Mapping[str, Tensor], config: VimConfig) -> dict[str, Tensor]:
    """The weights as they are, or inflated where they are an image model's and the model is one of clips."""
    kernel = state.get("patch_embed.proj.weight")
    return inflate(state, config) if config.frames and kernel is not None and kernel.dim() == 4 else dict(state)


def inflate(state: Mapping[str, Tensor], config: VimConfig, spread: str = "center") -> dict[str, Tensor]:
    """Weights of the image model for a model of clips with the same width and depth.

    The patch kernel [C, in, p, p] becomes [C, in, tubelet, p, p]: at the middle frame with zeros around it (`center`,
    the published recipe), or in every frame divided by their number (`repeat`). Both give a still clip the same logits. The
    time embedding starts at zero. The head is carried over as it is. Raises `UsageError`.
    """
    if spread not in SPREADS:
        raise UsageError(f"a 2-D kernel is spread over time by {' or '.join(SPREADS)}, not {spread!r}")
    if not config.frames:
        raise UsageError("only a model of clips needs inflated weights; give a config with frames")
    key = "patch_embed.proj.weight"
    kernel = state[key]
    if kernel.dim() != 4:
        raise UsageError(f"{key} is {tuple(kernel.shape)}, not the 2-D kernel of an image model")
    inflated = kernel[:, :, None].repeat(1, 1, config.tubelet, 1, 1)
    if spread == "repeat":
        inflated = inflated / config.tubelet
    else:
        middle = torch.zeros(config.tubelet, device=kernel.device, dtype=kernel.dtype)
        middle[config.tubelet // 2] = 1
        inflated = inflated * middle[:, None, None]
    time = torch.zeros(1, config.steps, kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    return {**state, key: inflated, "temporal_pos_embedding": time}
