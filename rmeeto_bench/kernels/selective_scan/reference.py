"""The bidirectional selective scan, defined: sequential over tokens, fp32, one line per equation.

S6 with the simplified zero-order hold of Mamba (exact for A, Euler for B), paper section 3 and Mamba's reference:

    delta_t = softplus(dt_t + dt_bias)
    h_t     = exp(delta_t A) h_{t-1} + delta_t B_t u_t          h_{-1} = 0
    y_t     = sum_n C_t h_t + D u_t

Direction 0 runs over t = 0..L-1, direction 1 over t = L-1..0; both write in token order, so nothing is ever flipped.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.kernels.arguments import ScanArguments


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Gated sum of both directions, `scale * (y_f + y_b) * silu(z)`: [B, L, D] in the dtype of u.

    Shapes are those of `ScanArguments`. The recurrence, the sum and the gate are fp32 (float64 for float64 input).
    """
    a = arguments.promoted()
    delta = F.softplus(a.dt + a.dt_bias[:, None, None, :])  # [2, B, L, D]
    y = []
    for direction in (0, 1):
        steps = range(a.u.shape[2])
        h = a.u.new_zeros(a.u.shape[1], a.u.shape[3], a.A.shape[2])  # [B, D, N]
        outputs: dict[int, Tensor] = {}
        for t in steps if direction == 0 else reversed(steps):
            delta_t, u_t = delta[direction, :, t, :, None], a.u[direction, :, t, :, None]  # [B, D, 1]
            h = torch.exp(delta_t * a.A[direction]) * h + delta_t * a.B[direction, :, t, None, :] * u_t
            outputs[t] = (h * a.C[direction, :, t, None, :]).sum(-1)
        y.append(torch.stack([outputs[t] for t in steps], dim=1) + a.D[direction] * a.u[direction])
    return (arguments.scale * (y[0] + y[1]) * F.silu(a.z)).to(arguments.u.dtype)
