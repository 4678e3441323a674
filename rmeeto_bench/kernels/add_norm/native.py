"""Residual add + RMSNorm in C++ for the CPU: one pass forward, one backward."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.kernels.native.build import library, pointer


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[Tensor, Tensor]:
        hidden, residual, weight, eps = operands
        hidden, weight = hidden.contiguous(), weight.contiguous()
        residual = None if residual is None else residual.contiguous()
        channels = hidden.shape[-1]
        tokens = hidden.numel() // channels
        out, total, rstd = torch.empty_like(hidden), torch.empty_like(hidden), hidden.new_empty(tokens)
        library().rmeeto_add_norm_forward(
            pointer(hidden),
            pointer(residual),
            pointer(weight),
            ctypes.c_long(tokens),
            channels,
            ctypes.c_float(eps),
            pointer(total),
            pointer(rstd),
            pointer(out),
            torch.get_num_threads(),
        )
        ctx.save_for_backward(total, rstd, weight)
        ctx.has_residual = residual is not None
        return out, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, rstd, weight = ctx.saved_tensors
        dout, dtotal = gradients[0].contiguous(), gradients[1].contiguous()
        threads, channels = torch.get_num_threads(), total.shape[-1]
        din, dweight = torch.empty_like(total), total.new_zeros(threads, channels)
        library().rmeeto_add_norm_backward(
            pointer(dout),
            pointer(dtotal),
            pointer(total),
            pointer(rstd),
            pointer(weight),
            ctypes.c_long(rstd.numel()),
            channels,
            pointer(din),
            pointer(dweight),
            threads,
        )
        return din, din if ctx.has_residual else None, dweight.sum(0), None


def add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.add_norm`, for CPU tensors; half inputs run in fp32."""
    residual = None if residual is None else residual.float()
    out, total = _AddNorm.apply(hidden.float(), residual, weight.float(), eps)
    return out.to(hidden.dtype), total
