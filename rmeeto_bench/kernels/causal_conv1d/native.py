"""The convolution in C++ for the CPU: both directions in one pass over x, no transposes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.native.library import library, pointer
from rmeeto_bench.kernels.native.operands import floats, rows
from rmeeto_bench.kernels.untraced import untraced

WIDTH = 4


class _Shape(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int),
        ("length", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("x_stride", ctypes.c_long),
    ]


def _call(name: str, x: Tensor, distance: int, *tensors: Tensor) -> None:
    shape = _Shape(x.shape[0], x.shape[1], x.shape[2], distance)
    library().run(name, ctypes.byref(shape), *(pointer(tensor) for tensor in (x, *tensors)))


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        x, weight, bias = operands
        (x, ctx.distance), weight, bias = rows(x), weight.contiguous(), bias.contiguous()
        u = x.new_empty(2, *x.shape)
        _call("rmeeto_conv_forward", x, ctx.distance, weight, bias, u)
        ctx.save_for_backward(x, weight, bias)
        return u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        dtaps = x.new_empty(x.shape[0], 2, x.shape[2], WIDTH + 1)
        _call("rmeeto_conv_backward", x, ctx.distance, weight, bias, gradients[0].contiguous(), dx, dtaps)
        dtaps = dtaps.sum(0)
        return dx, dtaps[..., :WIDTH], dtaps[..., WIDTH]


@untraced
def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `reference.causal_conv1d`, for CPU tensors and K = 4; half inputs run in fp32.

    Raises `UsageError` for operands of other shapes, dtypes or devices.
    """
    if x.dim() != 3:
        raise UsageError(f"x has shape {tuple(x.shape)}, not (B, L, D)")
    channels = x.shape[2]
    operands = (floats("x", x, *x.shape), floats("weight", weight, 2, channels, WIDTH), floats("bias", bias, 2, channels))
    return _Conv.apply(*operands).to(x.dtype)
