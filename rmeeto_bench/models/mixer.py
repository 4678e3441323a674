"""The bidirectional Mamba mixer of Vim and VideoMamba ("v2"), token-major, on the kernels that the caller passes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.registry import Kernels


class SsmFeatures(NamedTuple):
    """Inputs of a block's scan that serve as metrics. Both directions are in token order."""

    B: Tensor  # [2, B, L, N]
    C: Tensor  # [2, B, L, N]
    delta: Tensor  # [2, B, L, D], the dt projection before bias and softplus


class Stacked(NamedTuple):
    """Parameters of both directions, as the kernels take them."""

    taps: Tensor  # [2, D, K]
    conv_bias: Tensor  # [2, D]
    x_proj: Tensor  # [2, D, R + 2N]
    dt_proj: Tensor  # [2, R, D]
    A: Tensor  # [2, D, N], fp32
    D: Tensor  # [2, D], fp32
    dt_bias: Tensor  # [2, D], fp32


class Mixer(nn.Module):
    """Input and output [B, L, C]; inner width D = expand * C. Parameter names and shapes are Vim's checkpoints'.

    in_proj and out_proj are shared by the directions; convolution, x_proj, dt_proj, A and D exist twice (`*_b` is the
    backward direction). `scale` multiplies the sum of directions: 1/2 for Vim, 1 for VideoMamba.
    """

    def __init__(self, dim: int, d_state: int, d_conv: int, expand: int, scale: float) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.d_state, self.dt_rank, self.scale = d_state, rank, scale
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        for suffix in ("", "_b"):
            self.add_module(f"conv1d{suffix}", nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1))
            self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * d_state, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, inner))
        # [D, N], worked out on the CPU: on the meta device torch would import its compiler for it, a second of every run.
        states = torch.arange(1, d_state + 1, dtype=torch.float32, device="cpu").log().repeat(inner, 1)
        states = states.to(self.in_proj.weight.device)
        self.A_log, self.A_b_log = nn.Parameter(states), nn.Parameter(states.clone())
        self.D, self.D_b = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.ones(inner))
        self._kept: dict[torch.dtype, Stacked] | None = None  # None: not frozen

    def _stack(self, dtype: torch.dtype) -> Stacked:
        def both(module: str, parameter: str) -> Tensor:
            return torch.stack([getattr(getattr(self, module + suffix), parameter) for suffix in ("", "_b")])

        return Stacked(
            taps=both("conv1d", "weight").squeeze(2),
            conv_bias=both("conv1d", "bias"),
            x_proj=both("x_proj", "weight").transpose(1, 2).to(dtype),
            dt_proj=both("dt_proj", "weight").transpose(1, 2).to(dtype).contiguous(),  # products of so few columns like it
            A=-torch.exp(torch.stack([self.A_log, self.A_b_log]).float()),
            D=torch.stack([self.D, self.D_b]).float(),
            dt_bias=both("dt_proj", "bias").float(),
        )

    def freeze(self) -> None:
        """Keep tensors derived from the parameters while no gradients flow; the caller promises to leave them alone."""
        self._kept = {}

    def thaw(self) -> None:
        """Withdraw the promise of `freeze`."""
        self._kept = None

    def _stacked(self, dtype: torch.dtype) -> Stacked:
        """The parameters of both directions together.

        Nothing torch offers says whether a parameter has changed: a fused optimizer, `p.data` and inference mode leave its
        version as it was. They are therefore put together on each call, unless the caller has promised not to touch them.
        """
        if self._kept is None or torch.is_grad_enabled():
            return self._stack(dtype)
        if dtype not in self._kept:
            self._kept[dtype] = self._stack(dtype)
        return self._kept[dtype]

    def project(self, x: Tensor, kernels: Kernels) -> ScanArguments:
        """x [B, L, C] -> the operands of the scan: everything before it."""
        batch, length, _ = x.shape
        u0, z = self.in_proj(x).chunk(2, dim=-1)  # [B, L, D] each, views
        stacked = self._stacked(u0.dtype)
        u = kernels.causal_conv1d(u0, stacked.taps, stacked.conv_bias)
        rows = u.flatten(1, 2)  # [2, B L, D]
        x_dbl = torch.bmm(rows, stacked.x_proj)  # [2, B L, R + 2N]
        low, B, C = x_dbl.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = torch.bmm(low, stacked.dt_proj).view(u.shape)
        B, C = B.view(2, batch, length, -1), C.view(2, batch, length, -1)
        return ScanArguments(u, dt, stacked.A, B, C, stacked.D, z, stacked.dt_bias, scale=self.scale)

    def forward(self, x: Tensor, kernels: Kernels) -> tuple[Tensor, SsmFeatures]:
        """x [B, L, C] -> (mixed [B, L, C], the SSM quantities of this block)."""
        operands = self.project(x, kernels)
        y = kernels.selective_scan(operands)
        return self.out_proj(y), SsmFeatures(operands.B, operands.C, operands.dt)

    @torch.no_grad()
    def initialise(self, depth: int) -> None:
        """Vim's initialisation for training from scratch: dt log-uniform in [1e-3, 0.1], out_proj over sqrt(depth)."""
        bound = self.dt_rank**-0.5
        for suffix in ("", "_b"):
            dt_proj = getattr(self, f"dt_proj{suffix}")
            nn.init.uniform_(dt_proj.weight, -bound, bound)
            span = math.log(0.1) - math.log(1e-3)
            dt = torch.exp(torch.rand_like(dt_proj.bias) * span + math.log(1e-3)).clamp(min=1e-4)
            dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight /= math.sqrt(depth)


def direction_mean(feature: Tensor, *, flip: str, scale: float) -> Tensor:
    """Join both directions of a feature [2, B, L, F] into a merging metric [B, L, F].

    `flip="tokens"` pairs the same token of both directions. `flip="features"` is upstream's slip: the backward
    feature stays in reversed time and its channels are reversed instead. scale: 1/2 for Vim, 1 for VideoMamba.
    """
    backward = feature[1] if flip == "tokens" else feature[1].flip(1, 2)
    return (feature[0] + backward) * scale


def drop_path(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Stochastic depth: drop whole samples of x [B, ...] with probability `rate`, scale the kept ones up."""
    if rate == 0.0 or not training:
        return x
    keep = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


class RMSNorm(nn.Module):
    """The weight of an RMSNorm that follows the residual addition; the arithmetic is `kernels.add_norm`."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, hidden: Tensor, residual: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """hidden, residual [B, L, C] -> (normalised sum, sum in fp32)."""
        return kernels.add_norm(hidden, residual, self.weight, self.eps)


__all__ = ["Mixer", "RMSNorm", "SsmFeatures", "direction_mean", "drop_path"]
