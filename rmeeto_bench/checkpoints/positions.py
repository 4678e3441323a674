"""Carrying position embeddings from one image size to another."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.errors import UsageError


def resize_pos_embed(pos_embed: Tensor, num_patches: int, *, cls_first: bool = False) -> Tensor:
    """Interpolate a position embedding [1, 1 + P, C] to [1, 1 + num_patches, C], bicubic on the patch grid.

    The class token's row, in the middle at index P // 2 (Vim) or first, is carried over as it is. Raises `UsageError` if
    either number of patches is no square.
    """
    old = pos_embed.shape[1] - 1
    if old == num_patches:
        return pos_embed
    old_side, new_side = math.isqrt(old), math.isqrt(num_patches)
    if old_side**2 != old or new_side**2 != num_patches:
        raise UsageError(f"cannot resize position embeddings from {old} to {num_patches} patches: not square grids")
    middle = 0 if cls_first else old // 2
    cls_row = pos_embed[:, middle : middle + 1]
    patches = torch.cat([pos_embed[:, :middle], pos_embed[:, middle + 1 :]], dim=1)
    grid = patches.transpose(1, 2).unflatten(2, (old_side, old_side))  # [1, C, H, W]
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    patches, middle = grid.flatten(2).transpose(1, 2), 0 if cls_first else num_patches // 2
    return torch.cat([patches[:, :middle], cls_row, patches[:, middle:]], dim=1)
