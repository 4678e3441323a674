"""Depthwise causal convolution + SiLU in both directions, defined."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal depthwise convolution of x and, second, of the same on reversed time: [2, B, L, D].

    x [B, L, D] (its last dimension contiguous) · weight [2, D, K] · bias [2, D]. In direction 0 output t sees tokens
    t-K+1..t, in direction 1 tokens t..t+K-1 with the taps mirrored; both results are in token order.
    """
    width, channels = weight.shape[2], x.shape[2]
    sequence = x.transpose(1, 2)  # [B, D, L]
    forward = F.conv1d(F.pad(sequence, (width - 1, 0)), weight[0, :, None], bias[0], groups=channels)
    backward = F.conv1d(F.pad(sequence, (0, width - 1)), weight[1, :, None].flip(2), bias[1], groups=channels)
    return F.silu(torch.stack([forward, backward]).transpose(2, 3)).contiguous()
