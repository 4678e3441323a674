"""Compiles every Triton kernel for real GPUs, without one, and prints registers and spills as JSON.

A script of its own because the tests run Triton's interpreter, which has to be chosen before the kernels are imported.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rmeeto_bench.kernels.add_norm.triton import add_norm_kernel
from rmeeto_bench.kernels.causal_conv1d.triton import CHANNELS, TOKENS, conv_kernel
from rmeeto_bench.kernels.causal_conv1d.triton import WARPS as CONV_WARPS
from rmeeto_bench.kernels.merge.triton import FEATURES, match_kernel, merge_add_norm_kernel
from rmeeto_bench.kernels.selective_scan.triton import BLOCK, WARPS, scan_kernel
from rmeeto_bench.kernels.selective_scan.triton_backward import BLOCK as BACK
from rmeeto_bench.kernels.selective_scan.triton_backward import CHUNK, scan_backward_kernel
from rmeeto_bench.kernels.selective_scan.triton_backward import WARPS as BACK_WARPS

HALF, SINGLE = "*fp16", "*fp32"
INTEGERS = (
    *("batch", "length", "inner", "z_image", "z_row", "x_image", "x_row", "channels", "removed", "cls", "moved", "left"),
    *("m_image", "m_row"),
)
FLOATS = ("scale", "eps")


def cases() -> dict[str, tuple[Any, dict[str, str], dict[str, Any], int]]:
    """Name -> (kernel, pointer types that are not fp16, constants, warps), as the wrappers launch them for Vim-S in fp16."""
    single = dict.fromkeys(("A", "BC", "D", "bias"), SINGLE)
    partial = single | dict.fromkeys(("y", "starts", "states", "dBC", "dA", "dD", "dbias"), SINGLE)
    plan = dict.fromkeys(("survivors", "merged", "slots"), "*i32")
    return {
        "scan N=16": (scan_kernel, single, {"N": 16, "BLOCK": BLOCK}, WARPS),
        "scan N=8": (scan_kernel, single, {"N": 8, "BLOCK": BLOCK}, WARPS),
        "scan backward N=16": (scan_backward_kernel, partial, {"N": 16, "BLOCK": BACK, "CHUNK": CHUNK}, BACK_WARPS),
        "scan backward N=8": (scan_backward_kernel, partial, {"N": 8, "BLOCK": BACK, "CHUNK": CHUNK}, BACK_WARPS),
        "conv": (conv_kernel, {}, {"TOKENS": TOKENS, "CHANNELS": CHANNELS}, CONV_WARPS),
        "match": (match_kernel, plan, {"TOKENS": 128, "FEATURES": FEATURES}, 8),
        "merge_add_norm": (
            merge_add_norm_kernel,
            {**plan, "residual": SINGLE, "total": SINGLE, "size": SINGLE, "new_size": SINGLE},
            {"HAS_SIZE": True, "BLOCK": 512},
            2,
        ),
        "add_norm": (add_norm_kernel, {"residual": SINGLE, "total": SINGLE}, {"HAS_RESIDUAL": True, "BLOCK": 512}, 2),
    }


def signature(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """The type of every argument by its name."""
    found = {}
    for name in kernel.arg_names:
        plain = "i32" if name in INTEGERS else "fp32" if name in FLOATS else types.get(name, HALF)
        found[name] = "constexpr" if name in constants else plain
    return found


def source(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> ASTSource:
    """The kernel with its types. Triton 3.2 (torch 2.6) names the constants otherwise and wants no types for them."""
    every = signature(kernel, types, constants)
    if "constexprs" in inspect.signature(ASTSource.__init__).parameters:
        return ASTSource(kernel, every, constexprs=constants)
    plain = {name: kind for name, kind in every.items() if kind != "constexpr"}
    return ASTSource(kernel, plain, constants=constants)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread and bytes of local memory (spills) of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    assert registers, text
    assert stack, text
    return {"registers": int(registers[1]), "spilled": int(stack[1])}


def main() -> None:
    """One JSON object: "kernel sm_XX" -> resources."""
    report = {}
    for name, (kernel, types, constants, warps) in cases().items():
        for capability in (80, 86, 89, 90):
            target = GPUTarget("cuda", capability, 32)
            compiled = triton.compile(source(kernel, types, constants), target=target, options={"num_warps": warps})
            report[f"{name} sm_{capability}"] = resources(compiled.asm["cubin"])
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
