"""Residual add + RMSNorm in C++ for the CPU: one pass forward, one backward."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.native.library import library, pointer
from rmeeto_bench.kernels.native.operands import floats
from rmeeto_bench.kernels.untraced import untraced


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[Tensor, Tensor]:
        hidden, residual, weight, eps = operands
        hidden, weight = hidden.contiguous(), weight.contiguous()
        residual = None if residual is None else residual.contiguous()
        channels = hidden.shape[-1]
        tokens = hidden.numel() // channels
        out, total, rstd = hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape), hidden.new_empty(tokens)
        library().run(
            "rmeeto_add_norm_forward",
            pointer(hidden),
            pointer(residual),
            pointer(weight),
            ctypes.c_long(tokens),
            channels,
            ctypes.c_float(eps),
            pointer(total),
            pointer(rstd),
            pointer(out),
        )
        ctx.save_for_backward(total, rstd, weight)
        ctx.has_residual = residual is not None
        return out, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, rstd, weight = ctx.saved_tensors
        dout, dtotal = gradients[0].contiguous(), gradients[1].contiguous()
        threads, channels = torch.get_num_threads(), total.shape[-1]
        din, dweight = total.new_empty(total.shape), total.new_zeros(threads, channels)
        library().run(
            "rmeeto_add_norm_backward",
            pointer(dout),
            pointer(dtotal),
            pointer(total),
            pointer(rstd),
            pointer(weight),
            ctypes.c_long(rstd.numel()),
            channels,
            pointer(din),
            pointer(dweight),
        )
        return din, din if ctx.has_residual else None, dweight.sum(0), None


@untraced
def add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.add_norm`, for CPU tensors; half inputs run in fp32.

    Raises `UsageError` for operands of other shapes, dtypes or devices.
    """
    if hidden.dim() == 0 or not hidden.shape[-1]:
        raise UsageError(f"hidden has shape {tuple(hidden.shape)}, not (..., C)")
    residual = None if residual is None else floats("residual", residual, *hidden.shape)
    weight = floats("weight", weight, hidden.shape[-1])
    out, total = _AddNorm.apply(floats("hidden", hidden, *hidden.shape), residual, weight, eps)
    return out.to(hidden.dtype), total
