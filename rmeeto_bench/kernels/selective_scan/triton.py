"""The scan in Triton: sequential over tokens, all states of a channel in one thread's registers, no flips.

Why sequential: at 50-200 tokens the parallel scan of mamba-ssm pads and synchronises more than it computes; batch x
channels is parallelism enough. States are separate 1-D tensors because a [channels, states] tile makes Triton reduce
across threads at every token. Everything a token reads is loaded while the token before it is computed.

The assembler moves those loads to the end of a token, where the next one waits for them. With one channel a thread there are
registers to hold them from its start on, so PIN reads the clock after them: nothing may be moved across that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.arguments import ScanArguments, refuse_float64
from rmeeto_bench.kernels.selective_scan.triton_backward import scan_backward
from rmeeto_bench.kernels.selective_scan.triton_math import LOG2_E, silu, softplus

STATES = (4, 8, 16)
REGISTERS = 65536  # of a multiprocessor
PROGRAMS = {(7, 5): 16, (8, 6): 16, (8, 7): 16, (8, 9): 24}  # compute capability -> programs at once on one; else 32
# Channels of a thread -> registers of a warp, as compiled; cycles of a token in both directions, of one warp alone and of each
# warp where many share.
COSTS = {1: (120 * 32, 1400, 480), 2: (128 * 32, 2050, 660)}


@triton.jit
def _half(v, HIGH: tl.constexpr, T: tl.constexpr):
    """One of the two numbers of 16 bits that a word holds, in fp32."""
    if tl.bfloat16 == T:
        if HIGH:
            return (v & -65536).to(tl.float32, bitcast=True)
        else:
            return (v << 16).to(tl.float32, bitcast=True)
    else:
        if HIGH:
            return (v >> 16).to(tl.int16).to(T, bitcast=True).to(tl.float32)
        else:
            return v.to(tl.int16).to(T, bitcast=True).to(tl.float32)


@triton.jit
def _read(p, n: tl.constexpr, PACKED: tl.constexpr):
    """Values n to n + 3 of B or C as they are stored: two words of two values each, or four values."""
    if PACKED:
        a, b = tl.load(p + n // 2), tl.load(p + n // 2 + 1)
        return a, a, b, b
    else:
        return tl.load(p + n), tl.load(p + n + 1), tl.load(p + n + 2), tl.load(p + n + 3)


@triton.jit
def _states(p, N: tl.constexpr, PACKED: tl.constexpr):
    """All N values of B or C of a token, as sixteen names; those beyond N repeat others and are not used."""
    v0, v1, v2, v3 = _read(p, 0, PACKED)
    v4, v5, v6, v7, v8, v9, v10, v11 = v0, v1, v2, v3, v0, v1, v2, v3
    v12, v13, v14, v15 = v0, v1, v2, v3
    if N > 4:
        v4, v5, v6, v7 = _read(p, 4, PACKED)
    if N > 8:
        v8, v9, v10, v11 = _read(p, 8, PACKED)
        v12, v13, v14, v15 = _read(p, 12, PACKED)
    return v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15


@triton.jit
def _wide(v, HIGH: tl.constexpr, T: tl.constexpr, PACKED: tl.constexpr):
    if PACKED:
        return _half(v, HIGH, T)
    else:
        return v.to(tl.float32)


@triton.jit
def _four_states(
    h0, h1, h2, h3, a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, delta, x, y,
    T: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One token of four states: h = exp(delta A) h + x B, y += C h."""
    h0 = tl.exp2(delta * a0) * h0 + x * _wide(b0, False, T, PACKED)
    h1 = tl.exp2(delta * a1) * h1 + x * _wide(b1, True, T, PACKED)
    h2 = tl.exp2(delta * a2) * h2 + x * _wide(b2, False, T, PACKED)
    h3 = tl.exp2(delta * a3) * h3 + x * _wide(b3, True, T, PACKED)
    y += h0 * _wide(c0, False, T, PACKED) + h1 * _wide(c1, True, T, PACKED)
    y += h2 * _wide(c2, False, T, PACKED) + h3 * _wide(c3, True, T, PACKED)
    return h0, h1, h2, h3, y


@triton.jit
def _pinned(raw, zero):
    """The values as they are, for the compiler known only when the clock has been read; zero: int32 that is zero."""
    return tl.inline_asm_elementwise(
        "{.reg .b32 c; mov.u32 c, %clock; and.b32 c, c, $2; or.b32 $0, $1, c;}", "=r,r,r",
        [raw.to(tl.int32, bitcast=True), zero], dtype=tl.int32, is_pure=False, pack=1,
    ).to(tl.float32, bitcast=True)  # fmt: skip


@triton.jit
def _four_rates(A, mask):
    """Four of the rates of each channel, scaled for powers of two."""
    a0 = tl.load(A, mask=mask, other=0.0) * LOG2_E
    a1 = tl.load(A + 1, mask=mask, other=0.0) * LOG2_E
    a2 = tl.load(A + 2, mask=mask, other=0.0) * LOG2_E
    a3 = tl.load(A + 3, mask=mask, other=0.0) * LOG2_E
    return a0, a1, a2, a3


@triton.jit(do_not_specialize=["batch", "length"])
def scan_kernel(
    u, dt, A, BC, D, bias, z, out, z_image, z_row, b_row, scale, batch, length, inner,
    N: tl.constexpr, BLOCK: tl.constexpr, PAIR: tl.constexpr, PACKED: tl.constexpr, FAST: tl.constexpr,
    PIN: tl.constexpr,
):  # fmt: skip
    """One program: some channels of one image, both directions. Grid (batch, channel blocks).

    There are two phases. The first leaves gated halves of the sum in `out`, the second adds its own. Without PAIR a
    phase is a direction, of BLOCK channels. With PAIR the directions run side by side, half of the lanes each, and the
    first phase ends where they meet: the chain of tokens is half as long. At an odd length a lane also gets a token outside,
    which reads zeros and stores nothing. BC [2, B, L, 2N] has rows of b_row elements; PACKED reads two of their values of
    16 bits as one word.
    """
    image = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    T: tl.constexpr = BC.dtype.element_ty
    if PACKED:
        BC = BC.to(tl.pointer_type(tl.int32))
        b_row = b_row // 2
    CHANNELS: tl.constexpr = BLOCK // 2 if PAIR else BLOCK
    d = tl.program_id(1) * CHANNELS + lane % CHANNELS
    mask = d < inner
    count = (length + 1) // 2 if PAIR else length
    out += image * length * inner
    z += image * z_image
    zero = tl.zeros((BLOCK,), tl.float32)
    for phase in tl.static_range(2):
        if PAIR:
            back = lane // CHANNELS
            step = 1 - 2 * back
            t = back * (2 * count - 1) + step * phase * count
            ok = mask & (t < length)
            row = tl.minimum(t, length - 1)
        else:
            back = phase
            step = 1 - 2 * phase
            t = phase * (length - 1)
            ok = mask
            row = t
        if phase == 0 or not PAIR:
            rows = (image + back * batch) * length
            skip = tl.load(D + back * inner + d, mask=mask, other=0.0)
            offset = tl.load(bias + back * inner + d, mask=mask, other=0.0)
            rates = A + (back * inner + d) * N
            a0, a1, a2, a3 = _four_rates(rates, mask)
            h0, h1, h2, h3 = zero, zero, zero, zero
            h4, h5, h6, h7 = zero, zero, zero, zero
            h8, h9, h10, h11 = zero, zero, zero, zero
            h12, h13, h14, h15 = zero, zero, zero, zero
            if N > 4:
                a4, a5, a6, a7 = _four_rates(rates + 4, mask)
            if N > 8:
                a8, a9, a10, a11 = _four_rates(rates + 8, mask)
                a12, a13, a14, a15 = _four_rates(rates + 12, mask)
        # the first token's operands, then in the loop those of the next one
        u_at, dt_at = u + (rows + t) * inner + d, dt + (rows + t) * inner + d
        z_at, out_at = z + t * z_row + d, out + t * inner + d
        b_at = BC + (rows + row) * b_row
        next_u, next_dt = tl.load(u_at, mask=ok, other=0.0), tl.load(dt_at, mask=ok, other=0.0)
        next_z, next_out = tl.load(z_at, mask=ok, other=0.0), zero
        if phase == 1:
            next_out = tl.load(out_at, mask=ok, other=0.0)
        b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15 = _states(b_at, N, PACKED)
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15 = _states(
            b_at + (N // 2 if PACKED else N), N, PACKED
        )
        for i in range(count):
            value, raw = next_u.to(tl.float32), next_dt.to(tl.float32) + offset
            gate, y = next_z, next_out
            store_at, store_ok = out_at, ok
            m0, m1, m2, m3, m4, m5, m6, m7 = b0, b1, b2, b3, b4, b5, b6, b7
            m8, m9, m10, m11, m12, m13, m14, m15 = b8, b9, b10, b11, b12, b13, b14, b15
            n0, n1, n2, n3, n4, n5, n6, n7 = c0, c1, c2, c3, c4, c5, c6, c7
            n8, n9, n10, n11, n12, n13, n14, n15 = c8, c9, c10, c11, c12, c13, c14, c15
            if PAIR:
                inside = (t + step >= 0) & (t + step < length)
                move = tl.where(inside, step, 0)
                move_row = tl.where(t < length, move, 0)
                ok = mask & inside
                t += step
            else:
                move = tl.where(i + 1 < length, step, 0)
                move_row = move
            u_at += move * inner
            dt_at += move * inner
            z_at += move * z_row
            out_at += move * inner
            b_at += move_row * b_row
            next_u = tl.load(u_at, mask=mask, other=0.0, eviction_policy="evict_first")
            next_dt = tl.load(dt_at, mask=mask, other=0.0, eviction_policy="evict_first")
            next_z = tl.load(z_at, mask=mask, other=0.0)
            if phase == 1:
                next_out = tl.load(out_at, mask=mask, other=0.0)
            b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15 = _states(b_at, N, PACKED)
            c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15 = _states(
                b_at + (N // 2 if PACKED else N), N, PACKED
            )
            if PIN:
                raw = _pinned(raw, tl.zeros((BLOCK,), tl.int32) + (length >> 31))
            delta = softplus(raw, FAST)
            x, total = delta * value, skip * value
            h0, h1, h2, h3, total = _four_states(
                h0, h1, h2, h3, a0, a1, a2, a3, m0, m1, m2, m3, n0, n1, n2, n3, delta, x, total, T, PACKED
            )
            if N > 4:
                h4, h5, h6, h7, total = _four_states(
                    h4, h5, h6, h7, a4, a5, a6, a7, m4, m5, m6, m7, n4, n5, n6, n7, delta, x, total, T, PACKED
                )
            if N > 8:
                h8, h9, h10, h11, total = _four_states(
                    h8, h9, h10, h11, a8, a9, a10, a11, m8, m9, m10, m11, n8, n9, n10, n11, delta, x, total, T, PACKED
                )
                h12, h13, h14, h15, total = _four_states(
                    h12, h13, h14, h15, a12, a13, a14, a15, m12, m13, m14, m15, n12, n13, n14, n15,
                    delta, x, total, T, PACKED,
                )  # fmt: skip
            y = y.to(tl.float32) + total * (scale * silu(gate.to(tl.float32), FAST))
            tl.store(store_at, y.to(out.dtype.element_ty), mask=store_ok)
        if phase == 0:
            tl.debug_barrier()  # the lanes of the second phase read what others have stored


COMPILED = isinstance(scan_kernel, triton.runtime.JITFunction)  # not the interpreter's


class LaunchShape(NamedTuple):
    """How the scan is cut into programs: lanes and warps of each, and whether both directions run side by side."""

    block: int
    warps: int
    pair: bool

    @property
    def channels(self) -> int:
        """Of a thread."""
        return self.block // (32 * self.warps)


SHAPES = (LaunchShape(64, 1, False), LaunchShape(128, 2, True), LaunchShape(128, 4, True))  # two channels a thread, two, one


def launch_shape(batch: int, inner: int, processors: int, most_programs: int) -> LaunchShape:
    """The shape that ends first on a card with this many multiprocessors and this many programs at once on each.

    A token takes its latency at least, and its instructions for each warp that shares a scheduler; where both are alike, more
    than either. Programs that find no room wait for a second wave.
    """

    def cycles(shape: LaunchShape) -> float:
        registers, latency, issue = COSTS[shape.channels]
        at_once = processors * min(most_programs, REGISTERS // (registers * shape.warps))
        left = batch * triton.cdiv(inner, shape.block // (1 + shape.pair))
        total = 0.0
        while left > 0:
            per_scheduler = triton.cdiv(triton.cdiv(min(left, at_once), processors) * shape.warps, 4)
            total += (latency**4 + (issue * per_scheduler) ** 4) ** 0.25 / (1 + shape.pair)
            left -= at_once
        return total

    return min(SHAPES, key=cycles)


def card(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of the device, and programs at once on each; without a GPU one of each."""
    if device.type != "cuda":
        return 1, 1
    facts = torch.cuda.get_device_properties(device)
    return facts.multi_processor_count, PROGRAMS.get((facts.major, facts.minor), 32)


def launch(shape: LaunchShape, a: ScanArguments, out: Tensor) -> None:
    """Run the kernel in this shape into out [B, L, D]. B and C lie side by side: C follows B in each row."""
    _, batch, length, inner = a.u.shape
    row = a.B.stride(2)
    packed = a.B.element_size() == 2 and row % 2 == 0 and a.B.data_ptr() % 4 == 0
    scan_kernel[batch, triton.cdiv(inner, shape.block // (1 + shape.pair))](
        a.u, a.dt, a.A, a.B, a.D, a.dt_bias, a.z, out, a.z.stride(0), a.z.stride(1), row, a.scale, batch, length, inner,
        N=a.A.shape[2], BLOCK=shape.block, PAIR=shape.pair, PACKED=packed, FAST=COMPILED,
        PIN=COMPILED and shape.channels == 1, num_warps=shape.warps,
        enable_fp_fusion=True,  # Triton 3.10 turns it off by default
    )  # fmt: skip


@torch.library.custom_op("rmeeto_bench::selective_scan", mutates_args=())
def _scan(u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float) -> Tensor:
    out = torch.empty_like(u[0])
    B, C = BC.chunk(2, dim=-1)
    shape = launch_shape(u.shape[1], u.shape[3], *card(u.device))
    launch(shape, ScanArguments(u, dt, A, B, C, D, z, dt_bias, scale), out)
    return out


@_scan.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, BC: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor, scale: float) -> Tensor:
    return torch.empty_like(u[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, ctx.scale = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    u, dt, A, BC, *rest = ctx.saved_tensors
    du, ddt, dA, dBC, *others = scan_backward(grad, u, dt, A, BC.float(), *rest, ctx.scale)
    return (du, ddt, dA, dBC.to(BC.dtype), *others, None)


_scan.register_autograd(_backward, setup_context=_keep)


def selective_scan(arguments: ScanArguments) -> Tensor:
    """Same contract as `reference.selective_scan` for N of `STATES`, on CUDA (or the interpreter), gradients included.

    The gated half of one direction passes through the working dtype once (it waits in the output), as upstream's do.
    """
    a = arguments
    if a.A.shape[2] not in STATES:
        raise UsageError(f"A has {a.A.shape[2]} states; the Triton scan serves {', '.join(map(str, STATES))}")
    refuse_float64(a.u)
    gate = a.z if a.z.stride(2) == 1 else a.z.contiguous()
    D, dt_bias = a.D.float().contiguous(), a.dt_bias.float().contiguous()
    return _scan(a.u.contiguous(), a.dt.contiguous(), a.A.float().contiguous(), _joined(a.B, a.C), D, gate, dt_bias, a.scale)


def _joined(B: Tensor, C: Tensor) -> Tensor:
    """B and C side by side, [2, B, L, 2N], in rows one stride apart: a view where they lie so already, as in the model."""
    directions, batch, length, states = B.shape
    row = B.stride(2)
    beside = (
        B.stride() == C.stride() == (batch * length * row, length * row, row, 1)
        and B.untyped_storage()._cdata == C.untyped_storage()._cdata
        and C.storage_offset() == B.storage_offset() + states
    )
    if beside and not (torch.is_grad_enabled() and (B.requires_grad or C.requires_grad)):
        return B.as_strided((directions, batch, length, 2 * states), B.stride())
    return torch.cat([B, C], dim=-1)
