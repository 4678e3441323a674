"""Both directions of the depthwise convolution + SiLU in one Triton pass: x is read once, nothing is flipped."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.kernels.causal_conv1d import reference
from rmeeto_bench.kernels.recompute import with_gradients

WIDTH = 4
TOKENS = 8
CHANNELS = 128
WARPS = 8  # four outputs a thread: with eight, some Triton versions put part of the addresses on the stack


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit(do_not_specialize=["batch", "length"])
def conv_kernel(x, weight, bias, out, x_image, x_row, batch, length, inner, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """One program: TOKENS x CHANNELS of one image. Grid (batch, token blocks, channel blocks); weight [2, D, 4]."""
    image = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)[:, None]
    d = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = d < inner
    forward = tl.zeros((TOKENS, CHANNELS), tl.float32) + tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)
    backward = tl.zeros((TOKENS, CHANNELS), tl.float32) + tl.load(bias + inner + d, mask=inside, other=0.0).to(tl.float32)
    for k in tl.static_range(4):
        taps = tl.load(weight + 4 * d + k, mask=inside, other=0.0).to(tl.float32)
        mirrored = tl.load(weight + 4 * (inner + d) + k, mask=inside, other=0.0).to(tl.float32)
        before, after = t - 3 + k, t + 3 - k
        past = tl.load(x + image * x_image + before * x_row + d, mask=inside & (before >= 0) & (before < length), other=0.0)
        future = tl.load(x + image * x_image + after * x_row + d, mask=inside & (after < length), other=0.0)
        forward += taps * past.to(tl.float32)
        backward += mirrored * future.to(tl.float32)
    kept = inside & (t < length)
    row, mirrored_row = image * length + t, (image + batch) * length + t  # image is 64 bits wide, an argument may be a constant
    tl.store(out + row * inner + d, _silu(forward).to(out.dtype.element_ty), mask=kept)
    tl.store(out + mirrored_row * inner + d, _silu(backward).to(out.dtype.element_ty), mask=kept)


@torch.library.custom_op("rmeeto_bench::causal_conv1d", mutates_args=())
def _conv(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    batch, length, inner = x.shape
    out = torch.empty(2, batch, length, inner, dtype=x.dtype, device=x.device)
    grid = (batch, triton.cdiv(length, TOKENS), triton.cdiv(inner, CHANNELS))
    conv_kernel[grid](
        x, taps, bias, out, x.stride(0), x.stride(1), batch, length, inner,
        TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out


@_conv.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    return torch.empty(2, *x.shape, dtype=x.dtype, device=x.device)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `reference.causal_conv1d` for K = 4, on CUDA; the backward is the reference's."""

    def fast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if x.stride(2) == 1 else x.contiguous()
        return _conv(x, weight.contiguous(), bias.contiguous())

    return with_gradients(fast, reference.causal_conv1d, x, weight, bias)
