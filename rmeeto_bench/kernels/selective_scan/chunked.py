"""The scan in plain torch operations, for a GPU: chunks of tokens side by side, then a carry over the chunks.

`L / CHUNK + CHUNK` dependent steps instead of `L`. The carry is multiplied by products of decays only, never divided
by them: a cumulative-product division underflows for long or fast-decaying sequences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.kernels.arguments import ScanArguments

CHUNK = 16


def _states(decay: Tensor, inputs: Tensor) -> Tensor:
    """All states h_t = decay_t h_{t-1} + inputs_t; decay, inputs [B, L, D, N] with L a multiple of CHUNK."""
    batch, length, *rest = decay.shape
    a = decay.view(batch, length // CHUNK, CHUNK, *rest)
    b = inputs.view(batch, length // CHUNK, CHUNK, *rest)
    local, product = [b[:, :, 0]], [a[:, :, 0]]
    for i in range(1, CHUNK):
        local.append(a[:, :, i] * local[-1] + b[:, :, i])
        product.append(a[:, :, i] * product[-1])
    carry, carries = torch.zeros_like(b[:, 0, 0]), []  # the state before each chunk, [B, D, N]
    for chunk in range(length // CHUNK):
        carries.append(carry)
        carry = product[-1][:, chunk] * carry + local[-1][:, chunk]
    start = torch.stack(carries, dim=1)[:, :, None]  # [B, chunks, 1, D, N]
    states = torch.stack(local, dim=2) + torch.stack(product, dim=2) * start
    return states.view(batch, length, *rest)


def _scan_direction(a: ScanArguments, direction: int, delta: Tensor, elapsed: Tensor) -> Tensor:
    length = a.u.shape[2]
    padding = -length % CHUNK
    u, B, C = a.u[direction], a.B[direction], a.C[direction]  # [B, L, D], [B, L, N]
    if direction:
        u, B, C, delta, elapsed = u.flip(1), B.flip(1), C.flip(1), delta.flip(1), elapsed.flip(1)
    decay = torch.exp(elapsed[..., None] * a.A[direction])  # [B, L, D, N]
    inputs = (delta * u)[..., None] * B[:, :, None, :]
    if padding:
        decay, inputs = F.pad(decay, (0, 0, 0, 0, 0, padding)), F.pad(inputs, (0, 0, 0, 0, 0, padding))
    states = _states(decay, inputs)[:, :length]
    y = torch.einsum("bldn,bln->bld", states, C) + a.D[direction] * u
    return y.flip(1) if direction else y


def scan_both(a: ScanArguments, delta: Tensor, elapsed: Tensor) -> Tensor:
    """As `stepwise.scan_both`."""
    return torch.stack([_scan_direction(a, direction, delta[direction], elapsed[direction]) for direction in (0, 1)])


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan`; differentiable through autograd, at the price of stored states."""
    a = arguments.promoted()
    delta = F.softplus(a.dt + a.dt_bias[:, None, None])
    return (arguments.scale * scan_both(a, delta, delta).sum(0) * F.silu(a.z)).to(arguments.u.dtype)
