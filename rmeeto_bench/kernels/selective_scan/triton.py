"""The scan in Triton: sequential over tokens, all states of a channel in one thread's registers, no flips.

Why sequential: at 50-200 tokens the parallel scan of mamba-ssm pads and synchronises more than it computes; batch x
channels is parallelism enough. The exponentials are the limit then. States are separate 1-D tensors because a
[channels, states] tile makes Triton reduce across threads at every token.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.arguments import ScanArguments, refuse_float64
from rmeeto_bench.kernels.selective_scan.triton_backward import scan_backward
from rmeeto_bench.kernels.selective_scan.triton_math import LOG2_E, softplus

STATES = (4, 8, 16)
BLOCK = 64  # channels of a program: two per thread of its one warp share the reading of B and C
WARPS = 1
FEW_WARPS = 8  # below this many warps per multiprocessor one channel per thread fills the GPU better


@triton.jit
def _four_states(h0, h1, h2, h3, a0, a1, a2, a3, delta, x, b, c, y):
    """One token of four states: h = exp(delta A) h + x B, y += C h. b and c point at this token's four B and C."""
    h0 = tl.exp2(delta * a0) * h0 + x * tl.load(b)
    h1 = tl.exp2(delta * a1) * h1 + x * tl.load(b + 1)
    h2 = tl.exp2(delta * a2) * h2 + x * tl.load(b + 2)
    h3 = tl.exp2(delta * a3) * h3 + x * tl.load(b + 3)
    y += h0 * tl.load(c) + h1 * tl.load(c + 1) + h2 * tl.load(c + 2) + h3 * tl.load(c + 3)
    return h0, h1, h2, h3, y


@triton.jit
def _four_rates(A, n, inner, d, mask):
    """Four columns of A, stored [N, D] and scaled by log2(e) for exp2."""
    a0 = tl.load(A + n * inner + d, mask=mask, other=0.0)
    a1 = tl.load(A + (n + 1) * inner + d, mask=mask, other=0.0)
    a2 = tl.load(A + (n + 2) * inner + d, mask=mask, other=0.0)
    a3 = tl.load(A + (n + 3) * inner + d, mask=mask, other=0.0)
    return a0, a1, a2, a3


@triton.jit
def _direction(u, dt, A, BC, D, bias, z, out, z_row, scale, length, inner, d, mask, N: tl.constexpr, BACKWARD: tl.constexpr):
    """All tokens of one direction. The forward one leaves y in `out`, the backward one adds its own, gates and scales."""
    zero = tl.zeros(d.shape, tl.float32)
    skip = tl.load(D + d, mask=mask, other=0.0)
    offset = tl.load(bias + d, mask=mask, other=0.0)
    a0, a1, a2, a3 = _four_rates(A, 0, inner, d, mask)
    h0, h1, h2, h3 = zero, zero, zero, zero
    h4, h5, h6, h7 = zero, zero, zero, zero
    h8, h9, h10, h11 = zero, zero, zero, zero
    h12, h13, h14, h15 = zero, zero, zero, zero
    if N > 4:
        a4, a5, a6, a7 = _four_rates(A, 4, inner, d, mask)
    if N > 8:
        a8, a9, a10, a11 = _four_rates(A, 8, inner, d, mask)
        a12, a13, a14, a15 = _four_rates(A, 12, inner, d, mask)
    for i in range(length):
        t = i
        if BACKWARD:
            t = length - 1 - i
        at = t * inner + d
        value = tl.load(u + at, mask=mask, other=0.0).to(tl.float32)
        delta = softplus(tl.load(dt + at, mask=mask, other=0.0).to(tl.float32) + offset)
        x, y, b = delta * value, skip * value, BC + t * 2 * N
        h0, h1, h2, h3, y = _four_states(h0, h1, h2, h3, a0, a1, a2, a3, delta, x, b, b + N, y)
        if N > 4:
            h4, h5, h6, h7, y = _four_states(h4, h5, h6, h7, a4, a5, a6, a7, delta, x, b + 4, b + N + 4, y)
        if N > 8:
            h8, h9, h10, h11, y = _four_states(h8, h9, h10, h11, a8, a9, a10, a11, delta, x, b + 8, b + N + 8, y)
            h12, h13, h14, h15, y = _four_states(h12, h13, h14, h15, a12, a13, a14, a15, delta, x, b + 12, b + N + 12, y)
        if BACKWARD:
            gate = tl.load(z + t * z_row + d, mask=mask, other=0.0).to(tl.float32)
            y += tl.load(out + at, mask=mask, other=0.0).to(tl.float32)
            y = y * scale * gate / (1.0 + tl.exp(-gate))
        tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def scan_kernel(
    u, dt, A, BC, D, bias, z, out, z_image, z_row, scale, batch, length, inner, N: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: BLOCK channels of one image, forward and then backward. Grid (batch, channel blocks)."""
    image = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = d < inner
    tokens, other = image * length, (batch + image) * length  # rows of this image in either direction
    z += image * z_image
    out += tokens * inner
    _direction(
        u + tokens * inner, dt + tokens * inner, A, BC + tokens * 2 * N, D, bias, z, out,
        z_row, scale, length, inner, d, mask, N, False,
    )  # fmt: skip
    tl.debug_barrier()  # the layouts of a store and a load need not agree on which thread holds a channel
    _direction(
        u + other * inner, dt + other * inner, A + N * inner, BC + other * 2 * N, D + inner, bias + inner, z, out,
        z_row, scale, length, inner, d, mask, N, True,
    )  # fmt: skip


def _block(batch: int, inner: int, device: torch.device) -> int:
    """Channels of a program: half of BLOCK where the work is too small to fill the GPU otherwise."""
    if device.type != "cuda":
        return BLOCK
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return BLOCK if batch * triton.cdiv(inner, BLOCK) >= FEW_WARPS * processors else BLOCK // 2


@torch.library.custom_op("rmeeto_bench::selective_scan", mutates_args=())
def _scan(u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float) -> Tensor:
    _, batch, length, inner = u.shape
    out = torch.empty_like(u[0])
    rates = (A * LOG2_E.value).transpose(1, 2).contiguous()  # [2, N, D]
    block = _block(batch, inner, u.device)
    scan_kernel[batch, triton.cdiv(inner, block)](
        u, dt, rates, BC, D, dt_bias, z, out, z.stride(0), z.stride(1), scale, batch, length, inner,
        N=A.shape[2], BLOCK=block, num_warps=WARPS, enable_fp_fusion=True,  # Triton 3.10 turns it off by default
    )  # fmt: skip
    return out


@_scan.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float) -> Tensor:
    return torch.empty_like(u[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.scale = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*scan_backward(grad, *ctx.saved_tensors, ctx.scale), None)


_scan.register_autograd(_backward, setup_context=_keep)


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan` for N of `STATES`, on CUDA (or the interpreter), gradients included.

    The sum of directions passes through the working dtype once (the forward half waits in the output). B and C go in
    as fp32: two conversions a token instead of two per state, channel block and token.
    """
    a = arguments
    if a.A.shape[2] not in STATES:
        raise UsageError(f"A has {a.A.shape[2]} states; the Triton scan serves {', '.join(map(str, STATES))}")
    refuse_float64(a.u)
    BC = torch.cat([a.B, a.C], dim=-1).float()
    gate = a.z if a.z.stride(2) == 1 else a.z.contiguous()
    D, dt_bias = a.D.float().contiguous(), a.dt_bias.float().contiguous()
    return _scan(a.u.contiguous(), a.dt.contiguous(), a.A.float(), BC, D, gate, dt_bias, a.scale)
