"""Matching and the merge folded into add + RMSNorm, in C++ for the CPU at inference."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.native.build import library, pointer

MOST = 1 << 16  # sources an image may have; nothing grows with it but time


def match(metric: Tensor, cls_position: int, moved: int, r: int) -> MergePlan:
    """Same contract as `reference.match`, for CPU tensors. A score that is NaN loses against every number."""
    metric = metric.float().contiguous()
    batch, length, channels = metric.shape
    survivors = torch.empty(batch, length - r, dtype=torch.int32)
    merged, slots = torch.empty(2, batch, r, dtype=torch.int32)
    library().rmeeto_match(
        pointer(metric),
        *(ctypes.c_long(value) for value in (batch, length, channels, cls_position, moved, r)),
        *(pointer(tensor) for tensor in (survivors, merged, slots)),
        torch.get_num_threads(),
    )
    return MergePlan(survivors, merged, slots, moved)


def merge_add_norm(
    streams: tuple[Tensor, Tensor], size: Tensor | None, plan: MergePlan, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `reference.merge_add_norm`, without gradients, for CPU tensors; half inputs run in fp32."""
    hidden, residual = streams[0].float().contiguous(), streams[1].float().contiguous()
    size = None if size is None else size.float().contiguous()
    (batch, length, channels), left = hidden.shape, plan.survivors.shape[1]
    out, total = hidden.new_empty(2, batch, left, channels)
    new_size = hidden.new_empty(batch, left, 1)
    inputs = (hidden, residual, size, plan.survivors, plan.merged, plan.slots, weight.float().contiguous())
    library().rmeeto_merge_add_norm(
        *(pointer(tensor) for tensor in inputs),
        *(ctypes.c_long(value) for value in (batch, length, left, plan.merged.shape[1], channels)),
        ctypes.c_float(eps),
        *(pointer(tensor) for tensor in (out, total, new_size)),
        torch.get_num_threads(),
    )
    return out.to(streams[0].dtype), total, new_size
