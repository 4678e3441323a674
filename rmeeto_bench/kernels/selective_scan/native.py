"""The scan in C++ for the CPU: it reads all operands once, keeps the states in L1 and recomputes them in the backward."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.native.library import library, pointer
from rmeeto_bench.kernels.native.operands import floats, rows
from rmeeto_bench.kernels.untraced import untraced

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


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        u, dt, A, B, C, D, z, dt_bias, scale = operands
        u, dt, A, D, dt_bias = (tensor.contiguous() for tensor in (u, dt, A, D, dt_bias))
        (B, distance), (C, other), (z, z_distance) = rows(B), rows(C), rows(z)
        if distance != other:
            B, C, distance = B.contiguous(), C.contiguous(), B.shape[-1]
        ctx.shape = _Shape(u.shape[1], u.shape[2], u.shape[3], distance, z_distance)
        out = u.new_empty(u.shape[1:])
        ctx.save_for_backward(u, dt, A, B, C, D, z, dt_bias)
        ctx.scale = scale
        library().run(
            "rmeeto_scan_forward",
            ctypes.byref(ctx.shape),
            _pointers((u, dt, A, B, C, D, z, dt_bias)),
            A.shape[2],
            ctypes.c_float(scale),
            pointer(out),
        )
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, D, z, dt_bias = ctx.saved_tensors
        dout = gradients[0].contiguous()
        batch = u.shape[1]
        per_image = (u.new_empty(batch, *tensor.shape) for tensor in (A, D, dt_bias))
        du, ddt, dB, dC, dz = (u.new_empty(tensor.shape) for tensor in (u, dt, B, C, z))
        dA, dD, dbias = per_image
        library().run(
            "rmeeto_scan_backward",
            ctypes.byref(ctx.shape),
            _pointers((u, dt, A, B, C, D, z, dt_bias)),
            A.shape[2],
            pointer(dout),
            ctypes.c_float(ctx.scale),
            _pointers((du, ddt, dA, dB, dC, dD, dz, dbias)),
        )
        return du, ddt, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0), None


@untraced
def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan`, for CPU tensors and N of `STATES`; half inputs run in fp32.

    Raises `UsageError` for operands of other shapes, dtypes or devices.
    """
    a = arguments
    if a.u.dim() != 4 or a.A.dim() != 3 or a.u.shape[0] != 2:
        raise UsageError(f"u has shape {tuple(a.u.shape)} and A {tuple(a.A.shape)}, not (2, B, L, D) and (2, D, N)")
    _, batch, length, channels = a.u.shape
    states = a.A.shape[2]
    if states not in STATES:
        raise UsageError(f"A has {states} states; the native scan serves {', '.join(map(str, STATES))}")
    out = _Scan.apply(
        floats("u", a.u, 2, batch, length, channels),
        floats("dt", a.dt, 2, batch, length, channels),
        floats("A", a.A, 2, channels, states),
        floats("B", a.B, 2, batch, length, states),
        floats("C", a.C, 2, batch, length, states),
        floats("D", a.D, 2, channels),
        floats("z", a.z, batch, length, channels),
        floats("dt_bias", a.dt_bias, 2, channels),
        a.scale,
    )
    return out.to(a.u.dtype)
