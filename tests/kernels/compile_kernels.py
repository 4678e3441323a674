"""Compiles what the wrappers of the Triton kernels launch, for cards that are not here.

The wrappers run as they would on a GPU, on CPU tensors, with a driver that only says which card there is. Triton's own
JIT then specialises every argument as it does at run time (integers of 1 become constants, multiples of 16 and aligned
pointers are marked), compiles, and launches nothing. Triton's interpreter must be off, so this runs in a process of its own.

    python compile_kernels.py             the selection that the tests run, as JSON
    python compile_kernels.py --all       every kernel, dtype, size and card; one line for each failure
    python compile_kernels.py --write     the figures of each kernel into results/kernel_static.json
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # read when the kernels are imported

import static_model
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from rmeeto_bench.kernels.add_norm import triton as add_norm
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import triton as conv
from rmeeto_bench.kernels.merge import triton as merge
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.registry import NEW_CARDS, THEIR_TRITON
from rmeeto_bench.kernels.selective_scan import triton as scan
from rmeeto_bench.kernels.selective_scan import triton_backward as scan_back

CARDS = (70, 75, 80, 86, 89, 90, 100, 120)
if tuple(map(int, triton.__version__.split(".")[:2])) < THEIR_TRITON:
    CARDS = tuple(card for card in CARDS if divmod(card, 10) < NEW_CARDS)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Card:
    """The part of Triton's driver that a compile asks. One device per capability keeps Triton's caches apart."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        """The card to compile for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """A number per card."""
        return self.capability

    def get_current_stream(self, _device: int | None = None) -> int:
        """The default stream; nothing runs on it."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Where the operands are."""
        return torch.device("cpu")


@dataclass(frozen=True)
class Compiled:
    """One launch that a wrapper made."""

    kernel: str  # the name of the Triton function
    cubin: bytes  # the machine code
    registers: int  # of a thread
    stack: int  # bytes of a thread in local memory: spills
    shared: int  # bytes of a program
    warps: int  # of a program
    seconds: float  # of processor time that the compile took here


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of local memory (spills) of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    assert registers, text
    assert stack, text
    return int(registers[1]), int(stack[1])


def processor_seconds() -> float:
    """Of this process and of the assemblers it has started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def launches(capability: int, call: Callable[[], object]) -> list[Compiled]:
    """What `call` launches on such a card."""
    found: list[Compiled] = []
    run = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        start = processor_seconds()
        compiled = run(kernel, *args, grid=grid, warmup=True, **options)
        seconds = processor_seconds() - start
        registers, stack = resources(compiled.asm["cubin"])
        meta = compiled.metadata
        name = kernel.fn.__name__
        found.append(Compiled(name, compiled.asm["cubin"], registers, stack, meta.shared, meta.num_warps, seconds))
        return compiled

    driver.set_active(Card(capability))
    JITFunction.run = compile_only
    merge.capability = lambda _device: divmod(capability, 10)
    try:
        call()
    finally:
        JITFunction.run = run
    return found


@dataclass(frozen=True)
class Shape:
    """One shape of operands."""

    batch: int
    length: int
    dim: int  # channels of the model; the mixer has twice as many
    states: int = 16  # of a channel
    dtype: torch.dtype = torch.float16
    aligned: bool = True  # whether operands begin at a multiple of 16 bytes

    def new(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        """An operand; what is in it does not matter."""
        count = 1
        for size in sizes:
            count *= size
        flat = torch.zeros(count + 1, dtype=dtype or self.dtype)
        return (flat[:-1] if self.aligned else flat[1:]).view(sizes)


def run_scan(s: Shape, *, backward: bool) -> None:
    """The scan in every launch shape, or its gradient."""
    inner, f32 = 2 * s.dim, torch.float32
    u, dt = s.new(2, s.batch, s.length, inner), s.new(2, s.batch, s.length, inner)
    A, D, bias = s.new(2, inner, s.states, dtype=f32), s.new(2, inner, dtype=f32), s.new(2, inner, dtype=f32)
    z = s.new(s.batch, s.length, 2 * inner)[..., inner:]
    if backward:
        grad, BC = s.new(s.batch, s.length, inner), s.new(2, s.batch, s.length, 2 * s.states, dtype=f32)
        scan_back.scan_backward._init_fn(grad, u, dt, A, BC, D, z, bias, 0.5)
        return
    rank = -(-s.dim // 16)
    B, C = s.new(2, s.batch, s.length, rank + 2 * s.states)[..., rank:].chunk(2, dim=-1)
    choose = scan.launch_shape
    try:
        for shape in scan.SHAPES:
            scan.launch_shape = lambda *_, shape=shape: shape
            scan.selective_scan(ScanArguments(u, dt, A, B, C, D, z, bias, 0.5))
    finally:
        scan.launch_shape = choose


def run_conv(s: Shape) -> None:
    """The convolution."""
    inner = 2 * s.dim
    conv.causal_conv1d(s.new(s.batch, s.length, 2 * inner)[..., :inner], s.new(2, inner, 4), s.new(2, inner))


def run_add_norm(s: Shape, *, first: bool) -> None:
    """The norm of the first block, or of another."""
    hidden = s.new(s.batch, s.length, s.dim)
    residual = None if first else s.new(s.batch, s.length, s.dim, dtype=torch.float32)
    add_norm.add_norm(hidden, residual, s.new(s.dim), 1e-5)


def run_match(s: Shape, r: int, cls: int, moved: int) -> None:
    """The matching."""
    merge.match(s.new(s.batch, s.length, s.dim), cls, moved, r)


def run_merge(s: Shape, r: int, *, sized: bool) -> None:
    """The merge."""
    i32, f32 = torch.int32, torch.float32
    plan = MergePlan(
        s.new(s.batch, s.length - r, dtype=i32), s.new(s.batch, r, dtype=i32), s.new(s.batch, r, dtype=i32), cls_position=0
    )
    streams = (s.new(s.batch, s.length, s.dim), s.new(s.batch, s.length, s.dim, dtype=f32))
    size = s.new(s.batch, s.length, 1, dtype=f32) if sized else None
    merge.merge_add_norm(streams, size, plan, s.new(s.dim), 1e-5)


def calls(s: Shape) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every wrapper on this shape: (what it is, the call). Matching removes 1 token, and as many as it can."""
    yield "scan", lambda: run_scan(s, backward=False)
    yield "scan backward", lambda: run_scan(s, backward=True)
    yield "conv", lambda: run_conv(s)
    for first in (True, False):
        yield f"add_norm first={first}", lambda first=first: run_add_norm(s, first=first)  # type: ignore[misc]
    most = s.length // 2
    for r, cls, moved in ((1, 0, 0), (most, 1, 1)) if s.length > 2 else ():
        yield f"match r={r} cls={cls}", lambda r=r, cls=cls, moved=moved: run_match(s, r, cls, moved)  # type: ignore[misc]
        for sized in (True, False):
            yield f"merge r={r} sized={sized}", lambda r=r, sized=sized: run_merge(s, r, sized=sized)  # type: ignore[misc]


PAPER = Shape(16, 197, 384)  # Vim-S; a batch of 16 is specialised as one of 128
# Each value that Triton specialises (1, a multiple of 16, another) in each argument, each dtype, alignment and number of
# states at least once; (shape, cards).
SELECTION: tuple[tuple[Shape, tuple[int, ...]], ...] = (
    (PAPER, CARDS),
    (Shape(1, 197, 384), (90,)),
    (Shape(1, 5, 10, 8, torch.float32, aligned=False), (75,)),
    (Shape(3, 16, 16, 4, torch.bfloat16), (80,)),
    (Shape(3, 1, 8, 16, torch.bfloat16, aligned=False), (120,)),
    (Shape(1, 2, 10, 4, torch.float16, aligned=False), (70,)),
)


def every() -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """The whole matrix."""
    for dtype, aligned, batch, length in itertools.product(DTYPES.values(), (True, False), (1, 3, 16), (1, 16, 197)):
        for dim, states in ((384, 16), (10, 8), (8, 4)):
            yield Shape(batch, length, dim, states, dtype, aligned), CARDS


JUDGED = (80, 86, 89, 90)  # cards in that file; nvdisasm no longer reads the code of sm_70
figures, turns = functools.cache(static_model.figures), functools.cache(static_model.turns)


def report(selection: Iterable[tuple[Shape, tuple[int, ...]]], *, predictions: bool = False) -> Iterator[dict[str, Any]]:
    """One entry for each launch, or for each call that failed."""
    for shape, cards in selection:
        for card in sorted({*cards} & {*CARDS}):
            for what, call in calls(shape):
                entry = {"card": card, "call": what, "shape": str(shape), "paper": shape == PAPER}
                try:
                    found = launches(card, call)
                except Exception as error:  # the compiler fails in many types; all are to be reported
                    yield entry | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"}
                    continue
                for one in found:
                    facts = {
                        name: getattr(one, name) for name in ("kernel", "registers", "stack", "shared", "warps", "seconds")
                    }
                    if shape == PAPER and card in JUDGED:
                        facts |= figures(one.cubin, card)
                        if predictions:
                            facts["turns"] = turns(one.cubin, card)
                    yield entry | facts


def write() -> None:
    """The figures of every judged card into the file that the tests compare with."""
    entries = list(report([(PAPER, JUDGED)], predictions=True))
    failed = [entry for entry in entries if "error" in entry]
    if failed:
        raise SystemExit(f"a kernel does not compile: {failed[0]}")
    facts = {"triton": triton.__version__, "shape": str(PAPER), "kernels": static_model.table(entries)}
    text = re.sub(r"\[\s*([\d,\s]+?)\s*\]", lambda found: "[" + " ".join(found[1].split()) + "]", json.dumps(facts, indent=1))
    static_model.STORED.write_text(text + "\n")


def main() -> int:
    """Exit code 1 if --all finds a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="the whole matrix instead of the tests' selection")
    parser.add_argument("--write", action="store_true", help=f"write {static_model.STORED.name} instead")
    options = parser.parse_args()
    if options.write:
        write()
        return 0
    if not options.all:
        json.dump(list(report(SELECTION)), sys.stdout)
        return 0
    start, done, wrong = time.monotonic(), 0, 0
    for entry in report(every()):
        done += 1
        if "error" in entry or entry["stack"]:
            wrong += 1
            print(json.dumps(entry), flush=True)
    print(f"triton {triton.__version__}: {done} launches compiled, {wrong} failed or spilled, {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
