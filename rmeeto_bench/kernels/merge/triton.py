"""Matching in one Triton program per image, and the merge folded into the residual add and RMSNorm that follow it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.merge.plan import MergePlan

FEATURES = 32
LEAST = 16  # the smallest side of a matrix product in Triton
MOST = 256  # sources an image may have: beyond, the score matrix no longer fits the registers of a program


@triton.jit(do_not_specialize=["cls", "moved", "removed", "length"])
def match_kernel(
    metric, survivors, merged, slots, m_image, m_row, cls, moved, removed, length, channels,
    TOKENS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """One image: scores, best destination, the `removed` best sources, and where every survivor goes. Grid (batch,)."""
    image = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, TOKENS)
    patches = length - 1
    is_source, is_target = 2 * i < patches, 2 * i + 1 < patches
    source_row = 2 * i + (2 * i >= cls).to(tl.int32)
    target_row = 2 * i + 1 + (2 * i + 1 >= cls).to(tl.int32)
    metric += image * m_image
    scores = tl.zeros((TOKENS, TOKENS), tl.float32)
    source_norm = tl.zeros((TOKENS,), tl.float32)
    target_norm = tl.zeros((TOKENS,), tl.float32)
    for start in range(0, channels, FEATURES):
        f = start + tl.arange(0, FEATURES)
        inside = (f < channels)[None, :]
        a = tl.load(metric + source_row[:, None] * m_row + f[None, :], mask=is_source[:, None] & inside, other=0.0)
        b = tl.load(metric + target_row[:, None] * m_row + f[None, :], mask=is_target[:, None] & inside, other=0.0)
        scores += tl.dot(a, tl.trans(b), input_precision="ieee")
        source_norm += tl.sum(a.to(tl.float32) * a.to(tl.float32), axis=1)
        target_norm += tl.sum(b.to(tl.float32) * b.to(tl.float32), axis=1)
    scores = scores / tl.maximum(tl.sqrt(source_norm), 1e-37)[:, None] / tl.maximum(tl.sqrt(target_norm), 1e-37)[None, :]
    scores = tl.where(scores == scores, scores, -3e38)  # NaN never wins, and never lets more than `removed` through
    scores = tl.where(is_target[None, :], scores, float("-inf"))
    best = tl.where(is_source, tl.max(scores, axis=1), float("-inf"))
    nearest = tl.argmax(scores, axis=1)
    above = (best[None, :] > best[:, None]) | ((best[None, :] == best[:, None]) & (i[None, :] < i[:, None]))
    rank = tl.sum(above.to(tl.int32), axis=1)  # ties to the lower index, as a stable sort would
    kept = is_source & (rank >= removed)
    kept_until = tl.cumsum(kept.to(tl.int32), axis=0)
    source_slot = i + kept_until - 1  # i targets lie before source i, and the kept sources before it
    target_slot = i + kept_until
    source_slot += (source_slot >= moved).to(tl.int32)
    target_slot += (target_slot >= moved).to(tl.int32)
    survivors += image * (length - removed)
    tl.store(survivors + source_slot, source_row, mask=kept)
    tl.store(survivors + target_slot, target_row, mask=is_target)
    tl.store(survivors + moved, cls)
    own_slot = tl.sum(tl.where(nearest[:, None] == i[None, :], target_slot[None, :], 0), axis=1)
    gone = is_source & (rank < removed)
    tl.store(merged + image * removed + rank, source_row, mask=gone)
    own_slot = own_slot.to(tl.int64).to(tl.int32)  # Triton 3.2's interpreter sums int32 to int64 and stores eight bytes each
    tl.store(slots + image * removed + rank, own_slot, mask=gone)


@triton.jit(do_not_specialize=["length", "left", "removed"])
def merge_add_norm_kernel(
    hidden, residual, size, survivors, merged, slots, weight, out, total, new_size, length, left, removed, channels, eps,
    HAS_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One output token: its own row and those that fold into it, weighted by size, then the norm. Grid (left, batch)."""
    slot, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK)
    mask = c < channels
    row = image * length + tl.load(survivors + image * left + slot)
    own = tl.load(hidden + row * channels + c, mask=mask, other=0.0).to(tl.float32)
    own += tl.load(residual + row * channels + c, mask=mask, other=0.0)
    old = 1.0
    if HAS_SIZE:
        old = tl.load(size + row)
    group, folded = old, own * old
    for k in range(removed):
        if tl.load(slots + image * removed + k) == slot:
            row = image * length + tl.load(merged + image * removed + k)
            share = 1.0
            if HAS_SIZE:
                share = tl.load(size + row)
            other = tl.load(hidden + row * channels + c, mask=mask, other=0.0).to(tl.float32)
            other += tl.load(residual + row * channels + c, mask=mask, other=0.0)
            folded += share * other
            group += share
    x = tl.where(group == old, own, folded / group)  # a token that gains nothing is copied bit for bit
    at = image * left + slot
    tl.store(new_size + at, group)
    tl.store(total + at * channels + c, x, mask=mask)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / channels + eps)
    normed = x * scale * tl.load(weight + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at * channels + c, normed.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op("rmeeto_bench::match", mutates_args=())
def _match(metric: Tensor, cls_position: int, moved: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = metric.shape
    survivors, merged, slots = _indices(metric, r)
    tokens = max(LEAST, triton.next_power_of_2(length // 2))
    match_kernel[(batch,)](
        metric, survivors, merged, slots, metric.stride(0), metric.stride(1), cls_position, moved, r, length, channels,
        TOKENS=tokens, FEATURES=FEATURES, num_warps=8 if tokens > 64 else 4,
    )  # fmt: skip
    return survivors, merged, slots


def _indices(metric: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = metric.shape
    shapes = ((batch, length - r), (batch, r), (batch, r))
    survivors, merged, slots = (torch.empty(shape, dtype=torch.int32, device=metric.device) for shape in shapes)
    return survivors, merged, slots


@_match.register_fake
def _(metric: Tensor, cls_position: int, moved: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    return _indices(metric, r)


def match(metric: Tensor, cls_position: int, moved: int, r: int) -> MergePlan:
    """Same contract as `reference.match`, for up to 2 * MOST patches, on CUDA."""
    length = metric.shape[1]
    if length // 2 > MOST:
        raise UsageError(f"an image has {length} tokens; the Triton kernel matches up to {2 * MOST + 1}")
    if not (0 < r <= length // 2 and r < length - 1 and 0 <= cls_position < length and 0 <= moved < length - r):
        raise UsageError(f"{length} tokens have no class token at {cls_position} that moves to {moved} when {r} are merged")
    metric = metric if metric.stride(2) == 1 else metric.contiguous()
    survivors, merged, slots = _match(metric, cls_position, moved, r)
    return MergePlan(survivors, merged, slots, moved)


@torch.library.custom_op("rmeeto_bench::merge_add_norm", mutates_args=())
def _merge_add_norm(
    hidden: Tensor, residual: Tensor, size: Tensor | None, survivors: Tensor, merged: Tensor, slots: Tensor,
    weight: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    (batch, length, channels), (left, removed) = hidden.shape, (survivors.shape[1], merged.shape[1])
    out, total, new_size = _outputs(hidden, left)
    block = triton.next_power_of_2(channels)
    merge_add_norm_kernel[(left, batch)](
        hidden, residual, hidden if size is None else size, survivors, merged, slots, weight, out, total, new_size,
        length, left, removed, channels, eps,
        HAS_SIZE=size is not None, BLOCK=block, num_warps=max(1, min(8, block // 256)),
    )  # fmt: skip
    return out, total, new_size


def _outputs(hidden: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, channels = hidden.shape
    out = torch.empty(batch, left, channels, dtype=hidden.dtype, device=hidden.device)
    new_size = torch.empty(batch, left, 1, dtype=torch.float32, device=hidden.device)
    return out, torch.empty_like(out, dtype=torch.float32), new_size


@_merge_add_norm.register_fake
def _(
    hidden: Tensor, residual: Tensor, size: Tensor | None, survivors: Tensor, merged: Tensor, slots: Tensor,
    weight: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _outputs(hidden, survivors.shape[1])


def merge_add_norm(
    streams: tuple[Tensor, Tensor], size: Tensor | None, plan: MergePlan, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `reference.merge_add_norm`, without gradients, on CUDA."""
    hidden, residual = streams[0].contiguous(), streams[1].float().contiguous()
    size = None if size is None else size.contiguous()
    return _merge_add_norm(hidden, residual, size, plan.survivors, plan.merged, plan.slots, weight.contiguous(), eps)
