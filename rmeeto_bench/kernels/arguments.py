"""The operands of the scan. Every backend takes the same frozen object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.errors import UsageError


@dataclass(frozen=True)
class ScanArguments:
    """Operands of the bidirectional selective scan, token-major; index 0 of a leading 2 is the forward direction.

    Both directions are in token order. u, dt, B, C, z carry the working dtype; A, D, dt_bias are fp32. B, C and z may be
    column ranges of wider tensors: only their last dimension must be contiguous.
    """

    u: Tensor  # [2, B, L, D], inputs of the scan
    dt: Tensor  # [2, B, L, D], steps before bias and softplus
    A: Tensor  # [2, D, N], negative
    B: Tensor  # [2, B, L, N], input weights of the states
    C: Tensor  # [2, B, L, N], output weights of the states
    D: Tensor  # [2, D], weight of the input in the output
    z: Tensor  # [B, L, D], the gate that both directions share
    dt_bias: Tensor  # [2, D]
    scale: float  # factor on the sum of directions: 1/2 for Vim, 1 for VideoMamba

    def promoted(self) -> ScanArguments:
        """The same operands in the dtype of the recurrence: fp32, or float64 if u is float64."""
        dtype = torch.promote_types(self.u.dtype, torch.float32)
        u, dt, A, B, C, D, z, bias = (
            tensor.to(dtype) for tensor in (self.u, self.dt, self.A, self.B, self.C, self.D, self.z, self.dt_bias)
        )
        return ScanArguments(u, dt, A, B, C, D, z, bias, self.scale)  # torch 2.6 cannot compile dataclasses.replace


def refuse_float64(tensor: Tensor) -> None:
    """For kernels that compute in fp32. Raises `UsageError` rather than lose half of the digits."""
    if tensor.dtype == torch.float64:
        raise UsageError("the Triton kernels compute in fp32; --backend reference serves float64")
