"""The scan in plain torch operations for a CPU: token by token, the states of both directions and several images in cache.

Where nothing runs side by side, chunks of tokens are only more work: one layer of Vim-Ti takes 15 times as long in chunks
(`benchmarks/cpu_path.py`), and a training step of it took 27 times as long. Powers of two and logarithms are what torch is
fast at: its exp2 takes a quarter of the time of its exp, and its log a tenth of the time of its log1p.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.kernels.arguments import ScanArguments

STATES = 1 << 17  # states that are worked on together: half a megabyte, so that a step stays in the second cache of a core


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) within three units of the last place, everywhere."""
    if x.requires_grad and torch.is_grad_enabled():
        return F.softplus(x)  # its gradient is exact; that of the form below is not
    small = torch.exp(-x.abs())
    rounded = 1 + small
    lost = rounded - 1  # the part of `small` that is in `rounded`
    return torch.where(lost == 0, small, rounded.log() * (small / lost)) + x.clamp(min=0)


def _in_time(x: Tensor) -> Tensor:
    """[2, B, L, F] in token order -> in the order in which each direction meets the tokens."""
    return torch.stack((x[0], x[1].flip(1)))


def scan_both(a: ScanArguments, delta: Tensor, elapsed: Tensor) -> Tensor:
    """Both directions' outputs [2, B, L, D] in token order, ungated. delta [2, B, L, D] weighs the input, `elapsed` is the time
    the state decays by (the same, unless tokens are missing); `a` is promoted."""
    inner = a.u.shape[3]
    rates = (a.A / math.log(2)).transpose(1, 2)[:, None]  # [2, 1, N, D], of powers of two
    images = max(1, STATES // (2 * a.A.shape[2] * inner))
    parts = []
    for part in zip(*(x.split(images, 1) for x in (elapsed, delta * a.u, a.B, a.C))):
        steps = (_in_time(x).unbind(2) for x in part)
        h = a.u.new_zeros(2, part[0].shape[1], a.A.shape[2], inner)
        rows = []
        for time, inputs, B, C in zip(*steps):  # [2, B, D], [2, B, D], [2, B, N], [2, B, N]
            h = torch.addcmul(torch.exp2(time[:, :, None] * rates) * h, B[..., None], inputs[:, :, None])
            rows.append(torch.matmul(C[:, :, None], h))  # [2, B, 1, D]
        parts.append(torch.cat(rows, 2))
    y = torch.cat(parts, 1)
    return torch.stack((y[0], y[1].flip(1))) + a.D[:, None, None] * a.u


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan`; differentiable through autograd, at the price of stored states."""
    a = arguments.promoted()
    delta = softplus(a.dt + a.dt_bias[:, None, None])
    return (arguments.scale * scan_both(a, delta, delta).sum(0) * F.silu(a.z)).to(arguments.u.dtype)
