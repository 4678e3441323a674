"""Residual add + RMSNorm, defined."""

from __future__ import annotations

import torch
from torch import Tensor


def add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`(RMSNorm(residual + hidden) * weight, residual + hidden)`, both [B, L, C]; residual None counts as zero.

    The sum and the norm are fp32 and the sum stays so (`residual_in_fp32`); the first result has the dtype of hidden.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    total = hidden.to(dtype) if residual is None else residual.to(dtype) + hidden.to(dtype)
    scaled = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight.to(dtype)
    return scaled.to(hidden.dtype), total
