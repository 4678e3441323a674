"""Arithmetic that the Triton kernels of the scan share. FAST takes approximate instructions, which the interpreter lacks.

They err by about 2^-22: lg2.approx leaves at most 2.2e-5 relative in softplus, where half a unit of fp16 is 4.9e-4.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def power_of_two(x, FAST: tl.constexpr):
    """2^x; what is too small for a normal fp32 becomes zero."""
    if FAST:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def softplus(x, FAST: tl.constexpr):
    """log(1 + e^x); the series keeps the digits of small steps, where 1 + e^x rounds them away."""
    e = power_of_two(tl.minimum(x, 20.0) * LOG2_E, FAST)
    small = e * (1.0 - e * (0.5 - e * 0.33333333))
    if FAST:
        large = LN_2 * tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + e], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        large = tl.log(1.0 + e)
    return tl.where(x > 20.0, x, tl.where(e < 0.01, small, large))


@triton.jit
def silu(x, FAST: tl.constexpr):
    """x / (1 + e^-x)."""
    bottom = 1.0 + power_of_two(x * -LOG2_E, FAST)
    if FAST:
        return x * tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [bottom], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return x / bottom
