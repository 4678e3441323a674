"""The convolution in C++ for the CPU: both directions in one pass over x, no transposes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.kernels.native.build import library

WIDTH = 4


class _Shape(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int),
        ("length", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("x_stride", ctypes.c_long),
    ]


def _call(name: str, x: Tensor, *tensors: Tensor) -> None:
    shape = _Shape(x.shape[0], x.shape[1], x.shape[2], x.stride(1))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, *tensors))
    getattr(library(), name)(ctypes.byref(shape), *pointers, torch.get_num_threads())


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        x, weight, bias = operands
        if x.stride(2) != 1 or x.stride(0) != x.stride(1) * x.shape[1]:
            x = x.contiguous()
        weight, bias = weight.contiguous(), bias.contiguous()
        u = x.new_empty(2, *x.shape)
        _call("rmeeto_conv_forward", x, weight, bias, u)
        ctx.save_for_backward(x, weight, bias)
        return u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        dtaps = x.new_empty(x.shape[0], 2, x.shape[2], WIDTH + 1)
        _call("rmeeto_conv_backward", x, weight, bias, gradients[0].contiguous(), dx, dtaps)
        dtaps = dtaps.sum(0)
        return dx, dtaps[..., :WIDTH], dtaps[..., WIDTH]


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `reference.causal_conv1d`, for CPU tensors and K = 4; half inputs run in fp32."""
    return _Conv.apply(x.float(), weight.float(), bias.float()).to(x.dtype)
