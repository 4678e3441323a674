"""Matching and the merge folded into add + RMSNorm, in C++ for the CPU at inference."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.native.library import library, pointer
from rmeeto_bench.kernels.native.operands import floats
from rmeeto_bench.kernels.untraced import untraced

NAMES = ("hidden", "residual")
MOST = 1 << 16  # sources an image may have; nothing grows with it but time


@untraced
def match(metric: Tensor, cls_position: int, moved: int, r: int) -> MergePlan:
    """Same contract as `reference.match`, for CPU tensors. A score that is NaN loses against every number.

    Raises `UsageError` for a metric of another shape or dtype, and for places and an r that its tokens do not have.
    """
    if metric.dim() != 3:
        raise UsageError(f"the metric has shape {tuple(metric.shape)}, not (B, L, F)")
    metric = floats("the metric", metric, *metric.shape).contiguous()
    batch, length, channels = metric.shape
    if not (0 < r <= length // 2 and r < length - 1 and 0 <= cls_position < length and 0 <= moved < length - r):
        raise UsageError(f"{length} tokens have no class token at {cls_position} that moves to {moved} when {r} are merged")
    survivors = torch.empty(batch, length - r, dtype=torch.int32)
    merged, slots = torch.empty(2, batch, r, dtype=torch.int32)
    library().run(
        "rmeeto_match",
        pointer(metric),
        *(ctypes.c_long(value) for value in (batch, length, channels, cls_position, moved, r)),
        *(pointer(tensor) for tensor in (survivors, merged, slots)),
    )
    return MergePlan(survivors, merged, slots, moved)


@untraced
def merge_add_norm(
    streams: tuple[Tensor, Tensor], size: Tensor | None, plan: MergePlan, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `reference.merge_add_norm`, without gradients, for CPU tensors; half inputs run in fp32.

    Raises `UsageError` for operands of other shapes or dtypes, and for a plan that is not for these tokens.
    """
    if streams[0].dim() != 3:
        raise UsageError(f"hidden has shape {tuple(streams[0].shape)}, not (B, L, C)")
    batch, length, channels = streams[0].shape
    left, r = plan.survivors.shape[-1], plan.merged.shape[-1]
    hidden, residual = (floats(name, part, batch, length, channels).contiguous() for name, part in zip(NAMES, streams))
    size = None if size is None else floats("size", size, batch, length, 1).contiguous()
    parts = [part.to("cpu", torch.int32).contiguous() for part in (plan.survivors, plan.merged, plan.slots)]
    if [tuple(part.shape) for part in parts] != [(batch, left), (batch, r), (batch, r)]:
        raise UsageError(f"the merging plan is for other tokens than {batch} times {length}")
    weight = floats("weight", weight, channels).contiguous()
    out, total = hidden.new_empty(2, batch, left, channels)
    new_size = hidden.new_empty(batch, left, 1)
    library().run(
        "rmeeto_merge_add_norm",
        *(pointer(tensor) for tensor in (hidden, residual, size, *parts, weight)),
        *(ctypes.c_long(value) for value in (batch, length, left, r, channels)),
        ctypes.c_float(eps),
        *(pointer(tensor) for tensor in (out, total, new_size)),
    )
    return out.to(streams[0].dtype), total, new_size
