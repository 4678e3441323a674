"""Residual add + RMSNorm in Triton: one row per program, one read and one write of both streams."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.kernels.add_norm import reference
from rmeeto_bench.kernels.arguments import refuse_float64
from rmeeto_bench.kernels.recompute import with_gradients


@triton.jit
def add_norm_kernel(hidden, residual, weight, out, total, channels, eps, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr):
    """One token: sum of both streams in fp32, its norm in the dtype of hidden."""
    row = tl.program_id(0).to(tl.int64) * channels
    c = tl.arange(0, BLOCK)
    mask = c < channels
    x = tl.load(hidden + row + c, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual + row + c, mask=mask, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / channels + eps)
    tl.store(total + row + c, x, mask=mask)
    normed = x * scale * tl.load(weight + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row + c, normed.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op("rmeeto_bench::add_norm", mutates_args=())
def _add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    channels = hidden.shape[-1]
    out, total = torch.empty_like(hidden), torch.empty_like(hidden, dtype=torch.float32)
    block = triton.next_power_of_2(channels)
    add_norm_kernel[(hidden.numel() // channels,)](
        hidden, hidden if residual is None else residual, weight, out, total, channels, eps,
        HAS_RESIDUAL=residual is not None, BLOCK=block, num_warps=max(1, min(8, block // 256)),
    )  # fmt: skip
    return out, total


@_add_norm.register_fake
def _(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(hidden, dtype=torch.float32)


def add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.add_norm`, on CUDA; the backward is the reference's."""
    refuse_float64(hidden)

    def fast(hidden: Tensor, residual: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        residual = None if residual is None else residual.float().contiguous()
        return _add_norm(hidden.contiguous(), residual, weight.contiguous(), eps)

    def slow(hidden: Tensor, residual: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        return reference.add_norm(hidden, residual, weight, eps)

    return with_gradients(fast, slow, hidden, residual, weight)
