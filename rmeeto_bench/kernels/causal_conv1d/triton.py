"""Both directions of the depthwise convolution + SiLU in one Triton pass: x is read once, nothing is flipped."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.arguments import refuse_float64
from rmeeto_bench.kernels.causal_conv1d import reference
from rmeeto_bench.kernels.recompute import with_gradients
from rmeeto_bench.kernels.selective_scan.triton_math import silu

WIDTH = 4
TOKENS = 16  # outputs of a thread's walk
CHANNELS = 128
WARPS = 2


@triton.jit(do_not_specialize=["batch", "length"])
def conv_kernel(
    x, weight, bias, out, x_image, x_row, batch, length, inner,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One program: TOKENS x CHANNELS of one image. Grid (batch, token blocks, channel blocks); weight [2, D, 4].

    Each thread walks over the tokens with a window of seven, x0 to x6 around x3, so every value is read and converted once.
    """
    image = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * TOKENS
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = d < inner
    ahead = tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)
    behind = tl.load(bias + inner + d, mask=inside, other=0.0).to(tl.float32)
    taps, mirrored = weight + 4 * d, weight + 4 * (inner + d)
    w0 = tl.load(taps, mask=inside, other=0.0).to(tl.float32)
    w1 = tl.load(taps + 1, mask=inside, other=0.0).to(tl.float32)
    w2 = tl.load(taps + 2, mask=inside, other=0.0).to(tl.float32)
    w3 = tl.load(taps + 3, mask=inside, other=0.0).to(tl.float32)
    m0 = tl.load(mirrored, mask=inside, other=0.0).to(tl.float32)
    m1 = tl.load(mirrored + 1, mask=inside, other=0.0).to(tl.float32)
    m2 = tl.load(mirrored + 2, mask=inside, other=0.0).to(tl.float32)
    m3 = tl.load(mirrored + 3, mask=inside, other=0.0).to(tl.float32)
    x += image * x_image + d
    # both rows are 64 bits wide because image is; an argument may be a constant
    forward, backward = out + image * length * inner + d, out + (image + batch) * length * inner + d
    x0 = tl.load(x + (first - 3) * x_row, mask=inside & (first > 2), other=0.0).to(tl.float32)
    x1 = tl.load(x + (first - 2) * x_row, mask=inside & (first > 1), other=0.0).to(tl.float32)
    x2 = tl.load(x + (first - 1) * x_row, mask=inside & (first > 0), other=0.0).to(tl.float32)
    x3 = tl.load(x + first * x_row, mask=inside, other=0.0).to(tl.float32)
    x4 = tl.load(x + (first + 1) * x_row, mask=inside & (first + 1 < length), other=0.0).to(tl.float32)
    x5 = tl.load(x + (first + 2) * x_row, mask=inside & (first + 2 < length), other=0.0).to(tl.float32)
    for i in tl.static_range(TOKENS):
        t = first + i
        x6 = tl.load(x + (t + 3) * x_row, mask=inside & (t + 3 < length), other=0.0).to(tl.float32)
        kept = inside & (t < length)
        past = silu(ahead + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3, FAST)
        future = silu(behind + m3 * x3 + m2 * x4 + m1 * x5 + m0 * x6, FAST)
        tl.store(forward + t * inner, past.to(out.dtype.element_ty), mask=kept)
        tl.store(backward + t * inner, future.to(out.dtype.element_ty), mask=kept)
        x0, x1, x2, x3, x4, x5 = x1, x2, x3, x4, x5, x6


COMPILED = isinstance(conv_kernel, triton.runtime.JITFunction)  # not the interpreter's


@torch.library.custom_op("rmeeto_bench::causal_conv1d", mutates_args=())
def _conv(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    batch, length, inner = x.shape
    out = torch.empty(2, batch, length, inner, dtype=x.dtype, device=x.device)
    grid = (batch, triton.cdiv(length, TOKENS), triton.cdiv(inner, CHANNELS))
    conv_kernel[grid](
        x, taps, bias, out, x.stride(0), x.stride(1), batch, length, inner,
        TOKENS=TOKENS, CHANNELS=CHANNELS, FAST=COMPILED, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out


@_conv.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(2, *x.shape, dtype=x.dtype, device=x.device)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `reference.causal_conv1d` for K = 4, on CUDA; the backward is the reference's."""
    if weight.shape[2] != WIDTH:
        raise UsageError(f"the convolution has {weight.shape[2]} taps; the Triton kernel serves {WIDTH}")
    refuse_float64(x)

    def fast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if x.stride(2) == 1 else x.contiguous()
        return _conv(x, weight.contiguous(), bias.contiguous())

    return with_gradients(fast, reference.causal_conv1d, x, weight, bias)
