"""Checks of the native kernels' operands: the kernels take bare addresses and would read any memory."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError

SERVED = (torch.float32, torch.float16, torch.bfloat16)


def floats(name: str, tensor: Tensor, *shape: int) -> Tensor:
    """The tensor in fp32, after a check of its device, dtype and shape. Raises `UsageError` if one is wrong."""
    if tensor.device.type != "cpu":
        raise UsageError(f"{name} lies on {tensor.device}; the native kernels are for the CPU")
    if tensor.dtype not in SERVED:
        raise UsageError(f"{name} is {tensor.dtype}; the native kernels take fp32, fp16, bf16; stepwise takes float64")
    if tuple(tensor.shape) != shape:
        raise UsageError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
    return tensor.float()


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """(the tensor as evenly spaced rows of its last dimension, floats between two rows), copied only if it is not so yet.

    Strides of dimensions of size 1 mean nothing and may be anything, so they are not looked at.
    """
    width = tensor.shape[-1]
    leading = [(size, step) for size, step in zip(tensor.shape[:-1], tensor.stride()[:-1]) if size != 1]
    even = all(outer == inner * size for (_, outer), (size, inner) in pairwise(leading))
    distance = leading[-1][1] if leading else width
    if even and distance >= width and (width == 1 or tensor.stride(-1) == 1):
        return tensor, distance
    return tensor.contiguous(), width
