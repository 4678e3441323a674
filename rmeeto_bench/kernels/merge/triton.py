"""Matching in tiles of any number of tokens, and the merge folded into the residual add and RMSNorm that follow it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.merge.plan import MergePlan

FEATURES = 32
WARPS = 4
RANKS = 64  # sources that are compared with as many at a time
TURING = (7, 5)
TENSOR_CORES = (8, 0)  # the oldest compute capability for which Triton uses them
MOST = 1 << 16  # sources an image may have; nothing grows with it but time and three numbers a source


@triton.jit(do_not_specialize=["cls", "length"])
def nearest_kernel(
    metric, best, nearest, m_image, m_row, cls, length, channels,
    TILE: tl.constexpr, FEATURES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """TILE sources of an image: the closest target of each and its score. Grid (batch, tiles of sources)."""
    image = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    sources, targets = length // 2, (length - 1) // 2
    is_source = i < sources
    source_row = 2 * i + (2 * i >= cls).to(tl.int32)
    metric += image * m_image
    highest = tl.full((TILE,), float("-inf"), tl.float32)
    closest = tl.zeros((TILE,), tl.int32)
    for first in range(0, targets, TILE):
        j = first + tl.arange(0, TILE)
        is_target = j < targets
        target_row = 2 * j + 1 + (2 * j + 1 >= cls).to(tl.int32)
        scores = tl.zeros((TILE, TILE), tl.float32)
        source_norm = tl.zeros((TILE,), tl.float32)
        target_norm = tl.zeros((TILE,), tl.float32)
        for start in range(0, channels, FEATURES):
            f = start + tl.arange(0, FEATURES)
            inside = (f < channels)[None, :]
            a = tl.load(metric + source_row[:, None] * m_row + f[None, :], mask=is_source[:, None] & inside, other=0.0)
            b = tl.load(metric + target_row[:, None] * m_row + f[None, :], mask=is_target[:, None] & inside, other=0.0)
            if WIDE:  # Triton 3.2 cannot lay out products of 16 bits for cards of 7.0, and ends the process
                a, b = a.to(tl.float32), b.to(tl.float32)
            scores += tl.dot(a, tl.trans(b), input_precision="ieee")
            source_norm += tl.sum(a.to(tl.float32) * a.to(tl.float32), axis=1)
            target_norm += tl.sum(b.to(tl.float32) * b.to(tl.float32), axis=1)
        scores = scores / tl.maximum(tl.sqrt(source_norm), 1e-37)[:, None] / tl.maximum(tl.sqrt(target_norm), 1e-37)[None, :]
        scores = tl.where(scores == scores, scores, -3e38)  # NaN never wins, and never lets more than `removed` through
        scores = tl.where(is_target[None, :], scores, float("-inf"))
        top = tl.max(scores, axis=1)
        closest = tl.where(top > highest, first + tl.argmax(scores, axis=1), closest)  # ties to the lower index
        highest = tl.maximum(top, highest)
    tl.store(best + image * sources + i, highest, mask=is_source)
    tl.store(nearest + image * sources + i, closest.to(tl.int64).to(tl.int32), mask=is_source)


@triton.jit(do_not_specialize=["cls", "moved", "removed", "length"])
def plan_kernel(
    best, nearest, places, survivors, merged, slots, cls, moved, removed, length, TILE: tl.constexpr
):  # fmt: skip
    """One image: the `removed` best sources, and where every survivor goes. Grid (batch,); `places` is scratch."""
    image = tl.program_id(0).to(tl.int64)
    sources, targets = length // 2, (length - 1) // 2
    best += image * sources
    nearest += image * sources
    places += image * sources
    survivors += image * (length - removed)
    merged += image * removed
    slots += image * removed
    before = 0  # sources kept in the tiles before this one
    for first in range(0, sources, TILE):
        i = first + tl.arange(0, TILE)
        is_source, is_target = i < sources, i < targets
        own = tl.load(best + i, mask=is_source, other=float("-inf"))
        rank = tl.zeros((TILE,), tl.int32)
        for other in range(0, sources, TILE):
            j = other + tl.arange(0, TILE)
            score = tl.load(best + j, mask=j < sources, other=float("-inf"))
            above = (score[None, :] > own[:, None]) | ((score[None, :] == own[:, None]) & (j[None, :] < i[:, None]))
            rank += tl.sum(above.to(tl.int32), axis=1).to(tl.int32)  # ties to the lower index, as a stable sort would
        kept = is_source & (rank >= removed)
        until = before + tl.cumsum(kept.to(tl.int32), axis=0)
        before += tl.sum(kept.to(tl.int32), axis=0).to(tl.int32)
        source_row = 2 * i + (2 * i >= cls).to(tl.int32)
        target_row = 2 * i + 1 + (2 * i + 1 >= cls).to(tl.int32)
        source_slot = i + until - 1  # i targets lie before source i, and the kept sources before it
        target_slot = i + until
        source_slot += (source_slot >= moved).to(tl.int32)
        target_slot += (target_slot >= moved).to(tl.int32)
        tl.store(survivors + source_slot, source_row, mask=kept)
        tl.store(survivors + target_slot, target_row, mask=is_target)
        # Triton 3.2's interpreter sums int32 to int64 and stores eight bytes each
        tl.store(places + i, target_slot.to(tl.int64).to(tl.int32), mask=is_target)
        gone = is_source & (rank < removed)
        tl.store(merged + rank, source_row, mask=gone)
        tl.store(slots + rank, tl.load(nearest + i, mask=gone, other=0), mask=gone)
    tl.store(survivors + moved, cls)
    tl.debug_barrier()  # the threads that read the places have not written them
    for first in range(0, removed, TILE):
        k = first + tl.arange(0, TILE)
        target = tl.load(slots + k, mask=k < removed, other=0)
        tl.store(slots + k, tl.load(places + target, mask=k < removed, other=0), mask=k < removed)


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


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of the device; without a GPU that of a card with tensor cores."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else TENSOR_CORES


def product_tile(element_bytes: int, capability: tuple[int, int]) -> int:
    """Sources, and targets, of one matrix product: a larger one spills registers where there are no tensor cores for it."""
    return 64 if element_bytes == 2 and capability >= TENSOR_CORES else 32


@torch.library.custom_op("rmeeto_bench::match", mutates_args=())
def _match(metric: Tensor, cls_position: int, moved: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, channels = metric.shape
    survivors, merged, slots = _indices(metric, r)
    sources = length // 2
    card = capability(metric.device)
    tile = product_tile(metric.element_size(), card)
    best = torch.empty(batch, sources, dtype=torch.float32, device=metric.device)
    nearest, places = (torch.empty(batch, sources, dtype=torch.int32, device=metric.device) for _ in range(2))
    nearest_kernel[(batch, triton.cdiv(sources, tile))](
        metric, best, nearest, metric.stride(0), metric.stride(1), cls_position, length, channels,
        TILE=tile, FEATURES=FEATURES, WIDE=card < TURING, num_warps=WARPS,
    )  # fmt: skip
    plan_kernel[(batch,)](
        best, nearest, places, survivors, merged, slots, cls_position, moved, r, length, TILE=RANKS, num_warps=WARPS
    )
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
    """Same contract as `reference.match`, on CUDA."""
    length = metric.shape[1]
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
