"""The public packages mamba-ssm and causal-conv1d through their documented functions: the paper's own kernels.

The sequence of operations is upstream's: channel-major, one direction after the other, the backward one on flipped
copies, the fused add and norm, merging in torch. It serves as the baseline our kernels are compared with, and as a fast path
where Triton cannot go.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.kernels.add_norm import reference
from rmeeto_bench.kernels.arguments import ScanArguments

INSTALL = "pip install 'rmeeto-bench[mamba-ssm]' builds them (it needs nvcc and some minutes)"


def _function(module: str, name: str) -> Callable[..., Any]:
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # a build for another torch fails with anything from ImportError to OSError
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not import ({error})"
        raise UnavailableError(f"{module.split('.')[0]} {reason}; {INSTALL}") from error


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan`, on CUDA, with mamba-ssm's own backward."""
    scan = _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    a, total = arguments, None
    for direction in (0, 1):
        operands = [t.transpose(1, 2) for t in (a.u[direction], a.dt[direction], a.B[direction], a.C[direction], a.z)]
        u, dt, B, C, z = (t.flip(2) if direction else t.contiguous() for t in operands)  # [B, D or N, L]
        y = scan(u, dt, a.A[direction], B, C, a.D[direction].float(), z=z, delta_bias=a.dt_bias[direction], delta_softplus=True)
        total = y if total is None else total + y.flip(2)
    assert total is not None
    return (a.scale * total).transpose(1, 2)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Same contract as the reference convolution, on CUDA, with causal-conv1d's own backward."""
    conv = _function("causal_conv1d", "causal_conv1d_fn")
    sequence = x.transpose(1, 2).contiguous()  # [B, D, L]
    forward = conv(sequence, weight[0], bias[0], activation="silu")
    backward = conv(sequence.flip(2), weight[1], bias[1], activation="silu").flip(2)
    return torch.stack([forward, backward]).transpose(2, 3).contiguous()


def add_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.add_norm`: mamba-ssm's fused kernel where it imports (with Triton), else the reference."""
    for module in ("layer_norm", "layernorm"):  # of mamba-ssm 2 and 1
        try:
            fused = _function(f"mamba_ssm.ops.triton.{module}", "rms_norm_fn")
        except UnavailableError:
            continue
        normed, total = fused(hidden, weight, None, residual=residual, prenorm=True, residual_in_fp32=True, eps=eps)
        return normed, total
    return reference.add_norm(hidden, residual, weight, eps)


def require() -> None:
    """Raise `UnavailableError` with the reason if one of the two packages cannot be used."""
    _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    _function("causal_conv1d", "causal_conv1d_fn")
