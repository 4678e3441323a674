"""The gradient of the scan in Triton. The forward keeps no states; the backward recomputes them, CHUNK tokens at a time.

A first sweep leaves the state before every CHUNK-th token; then, from the last chunk to the first, the states within it are
computed into a scratch that stays in the cache, and the adjoint recurrence runs over them backwards. With
dh_t = C_t dy_t + exp(delta_{t+1} A) dh_{t+1}, every gradient is a sum of products with dh_t (B, C: over channels; A, D: over
images and tokens). Sums over programs are left as partial sums and added by torch: atomics would not repeat to the bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.kernels.selective_scan.triton_math import LOG2_E, softplus

CHUNK = 16  # tokens between two kept states: sqrt(197) rounded to a power of two balances both scratches
BLOCK = 32  # channels of a program
WARPS = 2


@triton.jit
def _token(u, dt, BC, offset, t, inner, d, inside, n, N: tl.constexpr):
    """u, dt + bias and delta [BLOCK], B and C [N] of one token."""
    value = tl.load(u + t * inner + d, mask=inside, other=0.0).to(tl.float32)
    raw = tl.load(dt + t * inner + d, mask=inside, other=0.0).to(tl.float32) + offset
    return value, raw, softplus(raw, False), tl.load(BC + t * 2 * N + n), tl.load(BC + t * 2 * N + N + n)


@triton.jit
def _adjoint(
    u, dt, BC, z, grad, du, ddt, dBC, before, rates, skip, offset, carry, d_rates, d_skip, d_offset,
    t, z_row, scale, inner, d, inside, n, N: tl.constexpr,
):  # fmt: skip
    """One token backwards. `before` [N, BLOCK]: the state before it; `carry`: exp(delta A) dh of the token after. Stores the
    gradients of u, dt, B and C at t; returns the carry and the sums for A, D and the bias."""
    value, raw, delta, b, c = _token(u, dt, BC, offset, t, inner, d, inside, n, N)
    gate = tl.load(z + t * z_row + d, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(grad + t * inner + d, mask=inside, other=0.0).to(tl.float32) * scale * gate / (1.0 + tl.exp(-gate))
    decay = tl.exp2(delta[None, :] * rates * LOG2_E)
    left, x = decay * before, delta * value
    dh = c[:, None] * dy[None, :] + carry
    tl.store(dBC + t * 2 * N + n, tl.sum(dh * x[None, :], 1))
    tl.store(dBC + t * 2 * N + N + n, tl.sum((left + b[:, None] * x[None, :]) * dy[None, :], 1))
    through = tl.sum(dh * b[:, None], 0)
    d_delta = tl.sum(dh * left * rates, 0) + through * value
    tl.store(du + t * inner + d, (through * delta + skip * dy).to(du.dtype.element_ty), mask=inside)
    d_raw = d_delta / (1.0 + tl.exp(-raw))
    tl.store(ddt + t * inner + d, d_raw.to(ddt.dtype.element_ty), mask=inside)
    return decay * dh, d_rates + dh * left * delta[None, :], d_skip + dy * value, d_offset + d_raw


@triton.jit(do_not_specialize=["batch", "length"])
def scan_backward_kernel(
    u, dt, A, BC, D, bias, z, grad, y, starts, states, du, ddt, dBC, dA, dD, dbias,
    z_image, z_row, scale, batch, length, inner, N: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK channels of one image and direction. Grid (batch, 2, channel blocks).

    Also leaves y [2, B, L, D], which the gradient of the gate needs. dBC [blocks, 2, B, L, 2N], dA [2, B, N, D], dD
    and dbias [2, B, D] are partial sums. `starts` [2, B, chunks, N, D] and `states` [2, B, CHUNK, N, D] are scratch.
    """
    image, direction, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    d = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    inside = d < inner
    tile = n[:, None] * inner + d[None, :]
    kept = inside[None, :]
    place = direction * batch + image
    chunks = (length + CHUNK - 1) // CHUNK
    rows = place * length
    u += rows * inner
    dt += rows * inner
    y += rows * inner
    du += rows * inner
    ddt += rows * inner
    BC += rows * 2 * N
    dBC += block.to(tl.int64) * 2 * batch * length * 2 * N + rows * 2 * N
    starts += place * chunks * N * inner
    states += place * CHUNK * N * inner
    grad += image * length * inner
    z += image * z_image
    rates = tl.load(A + direction * N * inner + tile, mask=kept, other=0.0)
    skip = tl.load(D + direction * inner + d, mask=inside, other=0.0)
    offset = tl.load(bias + direction * inner + d, mask=inside, other=0.0)
    first, step = direction * (length - 1), 1 - 2 * direction  # token i of the sweep is first + i * step

    h = tl.zeros((N, BLOCK), tl.float32)
    for i in range(length):
        if i % CHUNK == 0:
            tl.store(starts + (i // CHUNK) * N * inner + tile, h, mask=kept)
        t = first + i * step
        value, _, delta, b, c = _token(u, dt, BC, offset, t, inner, d, inside, n, N)
        h = tl.exp2(delta[None, :] * rates * LOG2_E) * h + b[:, None] * (delta * value)[None, :]
        tl.store(y + t * inner + d, tl.sum(h * c[:, None], 0) + skip * value, mask=inside)
    tl.debug_barrier()  # the layouts of a store and a load need not agree on which thread holds an element

    carry = tl.zeros((N, BLOCK), tl.float32)  # exp(delta A) dh of the token after
    d_rates = tl.zeros((N, BLOCK), tl.float32)
    d_skip = tl.zeros((BLOCK,), tl.float32)
    d_offset = tl.zeros((BLOCK,), tl.float32)
    for back in range(chunks):
        start = (chunks - 1 - back) * CHUNK
        count = tl.minimum(CHUNK, length - start)
        h = tl.load(starts + (chunks - 1 - back) * N * inner + tile, mask=kept, other=0.0)
        for i in range(count):
            tl.store(states + i * N * inner + tile, h, mask=kept)
            value, _, delta, b, _ = _token(u, dt, BC, offset, first + (start + i) * step, inner, d, inside, n, N)
            h = tl.exp2(delta[None, :] * rates * LOG2_E) * h + b[:, None] * (delta * value)[None, :]
        tl.debug_barrier()
        for i in range(count):
            j = count - 1 - i
            t = first + (start + j) * step
            before = tl.load(states + j * N * inner + tile, mask=kept, other=0.0)
            carry, d_rates, d_skip, d_offset = _adjoint(
                u, dt, BC, z, grad, du, ddt, dBC, before, rates, skip, offset, carry, d_rates, d_skip, d_offset,
                t, z_row, scale, inner, d, inside, n, N,
            )  # fmt: skip
        tl.debug_barrier()  # before the next chunk's states take the place of these
    tl.store(dA + place * N * inner + tile, d_rates, mask=kept)
    tl.store(dD + place * inner + d, d_skip, mask=inside)
    tl.store(dbias + place * inner + d, d_offset, mask=inside)


def _gate_gradient(grad: Tensor, y: Tensor, z: Tensor, scale: float) -> Tensor:
    """Of z: grad * scale * (y_f + y_b) * silu'(z)."""
    z32 = z.float()
    sigmoid = torch.sigmoid(z32)
    return (grad.float() * scale * (y[0] + y[1]) * sigmoid * (1 + z32 * (1 - sigmoid))).to(z.dtype)


@torch.library.custom_op("rmeeto_bench::selective_scan_backward", mutates_args=())
def scan_backward(
    grad: Tensor, u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, BC, D, z and dt_bias for that of the output, `grad` [B, L, D]; the rest as in the forward op."""
    _, batch, length, inner = u.shape
    states = A.shape[2]
    blocks, chunks = triton.cdiv(inner, BLOCK), triton.cdiv(length, CHUNK)

    def fp32(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=u.device)

    y, du, ddt = fp32(*u.shape), torch.empty_like(u), torch.empty_like(dt)
    dBC, dA = fp32(blocks, *BC.shape), fp32(2, batch, states, inner)
    dD, dbias = fp32(2, batch, inner), fp32(2, batch, inner)
    scan_backward_kernel[batch, 2, blocks](
        u, dt, A.transpose(1, 2).contiguous(), BC, D, dt_bias, z, grad.contiguous(), y,
        fp32(2, batch, chunks, states, inner), fp32(2, batch, CHUNK, states, inner), du, ddt, dBC, dA, dD, dbias,
        z.stride(0), z.stride(1), scale, batch, length, inner,
        N=states, BLOCK=BLOCK, CHUNK=CHUNK, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    dz = _gate_gradient(grad, y, z, scale)
    return du, ddt, dA.sum(1).transpose(1, 2).contiguous(), dBC.sum(0), dD.sum(1), dz, dbias.sum(1)


@scan_backward.register_fake
def _(
    grad: Tensor, u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def like(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)

    return like(u), like(dt), like(A), like(BC), like(D), like(z), like(dt_bias)
