"""The scan in C++ for the CPU: states in registers, all operands read once, states recomputed in the backward."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.native.build import library

STATES = (4, 8, 16)


class _Shape(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int),
        ("length", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("bc_stride", ctypes.c_long),
        ("z_stride", ctypes.c_long),
    ]


def _pointers(tensors: tuple[Tensor, ...]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _rows(tensor: Tensor) -> Tensor:
    """The tensor as evenly spaced rows (…, row stride, 1), copied only if it is not laid out so already."""
    stride = tensor.stride(-2)
    for dim in range(tensor.dim() - 3, -1, -1):
        if tensor.stride(dim) != tensor.stride(dim + 1) * tensor.shape[dim + 1]:
            return tensor.contiguous()
    return tensor if tensor.stride(-1) == 1 and stride >= tensor.shape[-1] else tensor.contiguous()


def _shape(u: Tensor, B: Tensor, z: Tensor) -> Any:
    return ctypes.byref(_Shape(u.shape[1], u.shape[2], u.shape[3], B.stride(2), z.stride(1)))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        *tensors, scale = operands
        u, dt, A, B, C, D, z, dt_bias = (t if i in (3, 4, 6) else t.contiguous() for i, t in enumerate(tensors))
        B, C, z = _rows(B), _rows(C), _rows(z)
        if B.stride() != C.stride():
            B, C = B.contiguous(), C.contiguous()
        out = torch.empty_like(u[0])
        operands = (u, dt, A, B, C, D, z, dt_bias)
        threads = torch.get_num_threads()
        library().rmeeto_scan_forward(
            _shape(u, B, z),
            _pointers(operands),
            A.shape[2],
            ctypes.c_float(scale),
            ctypes.c_void_p(out.data_ptr()),
            threads,
        )
        ctx.save_for_backward(*operands)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, D, z, dt_bias = ctx.saved_tensors
        dout = gradients[0].contiguous()
        batch = u.shape[1]
        results = (
            torch.empty_like(u),
            torch.empty_like(dt),
            u.new_empty(batch, *A.shape),
            u.new_empty(B.shape),
            u.new_empty(C.shape),
            u.new_empty(batch, *D.shape),
            u.new_empty(z.shape),
            u.new_empty(batch, *dt_bias.shape),
        )
        library().rmeeto_scan_backward(
            _shape(u, B, z),
            _pointers((u, dt, A, B, C, D, z, dt_bias)),
            A.shape[2],
            ctypes.c_void_p(dout.data_ptr()),
            ctypes.c_float(ctx.scale),
            _pointers(results),
            torch.get_num_threads(),
        )
        du, ddt, dA, dB, dC, dD, dz, dbias = results
        return du, ddt, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0), None


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan`, for CPU tensors and N of `STATES`; half inputs run in fp32."""
    a = arguments.promoted()
    out = _Scan.apply(a.u, a.dt, a.A, a.B, a.C, a.D, a.z, a.dt_bias, a.scale)
    return out.to(arguments.u.dtype)
