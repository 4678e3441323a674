"""How fast the CPU path is: scans of one Vim-Ti layer against each other, and Vim-Ti against DeiT-Ti in one process.

Run it on a quiet machine:

    python benchmarks/cpu_path.py --out results/cpu_path/NAME.json

`--only sets` compares the instruction sets of this machine in processor time with one thread, which other programs disturb
less than wall time; its ratios are of turns that follow each other at once.

Alternatives to the shipped kernels (torch.compile, numba) live here only: they were measured and not taken.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import rmeeto_bench as rb
from rmeeto_bench.bench.environment import environment
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.native import library
from rmeeto_bench.kernels.selective_scan import chunked, native, reference
from rmeeto_bench.measure.devices.device import find_devices
from rmeeto_bench.measure.rounds import Protocol, TimedArm, Watch, measure
from rmeeto_bench.measure.statistics import paired_speedup, rate

BATCH = 8
SCAN = Protocol("scan", 0.2, 1, 8, 8, 1.0, 5.0, 120.0, minutes=1.0, reject=())
MODEL = Protocol("model", 1.0, 1, 10, 10, 3.0, 20.0, 200.0, minutes=1.0, reject=())


def vim_tiny_operands() -> ScanArguments:
    """Operands of one layer at 224 px, batch 8: D = 384, N = 16, L = 197."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    length, inner, states = 197, 384, 16
    return ScanArguments(
        u=draw(2, BATCH, length, inner),
        dt=draw(2, BATCH, length, inner) - 4,
        A=-torch.arange(1, states + 1.0).repeat(2, inner, 1),
        B=draw(2, BATCH, length, states),
        C=draw(2, BATCH, length, states),
        D=torch.ones(2, inner),
        z=draw(BATCH, length, inner),
        dt_bias=torch.zeros(2, inner),
        scale=0.5,
    )


def numba_scan() -> Callable[[ScanArguments], torch.Tensor]:
    """The recurrence as a numba loop, parallel over batch and channels."""
    import numba

    @numba.njit(parallel=True, fastmath=False)
    def run(u, dt, A, B, C, D, z, bias, scale, out):
        batch, length, inner = z.shape
        states = A.shape[2]
        for job in numba.prange(batch * inner):
            b, d = job // inner, job % inner
            h = np.empty(states, np.float32)
            for direction in range(2):
                h[:] = 0
                for i in range(length):
                    t = i if direction == 0 else length - 1 - i
                    x = dt[direction, b, t, d] + bias[direction, d]
                    delta = np.log1p(np.exp(x)) if x < 20 else x
                    value = u[direction, b, t, d]
                    y = D[direction, d] * value
                    for n in range(states):
                        h[n] = np.exp(delta * A[direction, d, n]) * h[n] + delta * B[direction, b, t, n] * value
                        y += h[n] * C[direction, b, t, n]
                    out[b, t, d] = y if direction == 0 else out[b, t, d] + y
            for t in range(length):
                gate = z[b, t, d]
                out[b, t, d] *= scale * gate / (1 + np.exp(-gate))

    def scan(a: ScanArguments) -> torch.Tensor:
        out = torch.empty_like(a.z)
        run(*(t.numpy() for t in (a.u, a.dt, a.A, a.B, a.C, a.D, a.z, a.dt_bias)), np.float32(a.scale), out.numpy())
        return out

    return scan


def rounds(steps: dict[str, Callable[[], Any]], baseline: str, protocol: Protocol) -> dict[str, Any]:
    """Images/s of every step and its paired ratio over the baseline, from interleaved rounds."""
    device = find_devices("none")[0]
    blocks: dict[str, list[float]] = {name: [] for name in steps}
    arms = [TimedArm(name, step, BATCH) for name, step in steps.items()]
    measure(device, arms, baseline, protocol, Watch(lambda block: blocks[block.arm].append(block.seconds / block.images)))
    result = {}
    for name, times in blocks.items():
        ratio = paired_speedup(blocks[baseline], times)
        result[name] = {
            "images_per_second": rate(times).value,
            "ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
    return result


@torch.inference_mode()
def scans() -> dict[str, Any]:
    """One layer's scan, every implementation."""
    operands = vim_tiny_operands()
    expected = reference.selective_scan(operands)
    torch._dynamo.config.recompile_limit = 64
    candidates: dict[str, Callable[[ScanArguments], torch.Tensor]] = {
        "plain loop": reference.selective_scan,
        "chunked torch": chunked.selective_scan,
        "native C++": native.selective_scan,
    }
    try:
        candidates["numba"] = numba_scan()
    except ImportError:
        print("numba is not installed: left out")
    candidates["torch.compile of chunked"] = torch.compile(chunked.selective_scan)
    steps, setup, errors = {}, {}, {}
    for name, scan in candidates.items():
        start = time.perf_counter()
        try:
            found = scan(operands)
        except Exception as error:
            print(f"{name}: left out, {type(error).__name__}")
            continue
        setup[name] = time.perf_counter() - start
        errors[name] = float((found - expected).norm() / expected.norm())
        steps[name] = lambda scan=scan: scan(operands)
    table = rounds(steps, "plain loop", SCAN)
    for name, row in table.items():
        row |= {"first_call_seconds": setup[name], "relative_error": errors[name]}
    return table


@torch.inference_mode()
def models() -> dict[str, Any]:
    """Whole models at 224 px: Vim-Ti at r = 0 and 20, Vim-Ti on the plain loop, DeiT-Ti as the yardstick."""
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    built = {
        "vim_tiny": rb.create_model("vim_tiny"),
        **{f"vim_tiny r={r}": rb.create_model("vim_tiny", r=r) for r in (5, 11, 20)},
        "vim_tiny plain loop": rb.create_model("vim_tiny", backend="reference"),
        "deit_tiny_patch16_224": timm.create_model("deit_tiny_patch16_224").eval(),
    }
    return rounds({name: (lambda model=model: model(images)) for name, model in built.items()}, "vim_tiny", MODEL)


@torch.inference_mode()
def in_turns(steps: dict[str, Callable[[], Any]], baseline: str, images: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of processor and wall time an image of every step, the least of `repeats` turns, and the median over
    turns of the baseline's processor time over the step's."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()
            spent[name].append((time.process_time() - processor, time.perf_counter() - wall))
    result = {}
    for name, turns in spent.items():
        ratios = [base[0] / own[0] for base, own in zip(spent[baseline], turns)]
        processor, wall = (1000 * min(values) / images for values in zip(*turns))
        result[name] = {"processor_ms": processor, "wall_ms": wall, "ratio": float(np.median(ratios))}
    return result


def instruction_sets(repeats: int) -> dict[str, Any]:
    """One layer's scan and Vim-Ti on every instruction set of this machine, with DeiT-Ti and `chunked`, on one thread."""
    operands, generator = vim_tiny_operands(), torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 224, 224, generator=generator)
    built = {f"vim_tiny r={r}": rb.create_model("vim_tiny", r=r).eval().freeze() for r in (0, 20)}
    deit = timm.create_model("deit_tiny_patch16_224").eval()
    scan_steps: dict[str, Callable[[], Any]] = {"chunked": lambda: chunked.selective_scan(operands)}
    model_steps: dict[str, Callable[[], Any]] = {"deit_tiny_patch16_224": lambda: deit(images)}

    def on(isa: str, step: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with library.using(isa):
                return step()

        return call

    for isa in library._processor_sets():
        scan_steps[isa] = on(isa, lambda: native.selective_scan(operands))
        for name, model in built.items():
            model_steps[f"{name} {isa}"] = on(isa, lambda model=model: model(images))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scan = in_turns(scan_steps, "chunked", BATCH, repeats)
        return {"scan": scan, "models": in_turns(model_steps, "deit_tiny_patch16_224", BATCH, repeats)}
    finally:
        torch.set_num_threads(threads)


def show_turns(title: str, table: dict[str, Any]) -> None:
    """Print one table of processor times."""
    print(f"\n{title}")
    for name, row in table.items():
        print(f"  {name:26} {row['processor_ms']:9.2f} ms processor, {row['wall_ms']:9.2f} ms wall  {row['ratio']:8.3f}x")


def show(title: str, table: dict[str, Any]) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, row in sorted(table.items(), key=lambda item: -item[1]["images_per_second"]):
        print(f"  {name:26} {row['images_per_second']:9.2f} images/s  {row['ratio']:8.3f}x")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=("sets", "paths"), help="one of the two parts")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="turns of every step in `sets` (default: 9)")
    arguments = parser.parse_args()
    result = {"environment": environment(), "batch": BATCH, "threads": torch.get_num_threads()}
    if arguments.only != "paths":
        result["sets"] = instruction_sets(arguments.repeats)
        show_turns("scan of one Vim-Ti layer by instruction set, an image on one thread (over chunked)", result["sets"]["scan"])
        show_turns("models at 224 px by instruction set, an image on one thread (over DeiT-Ti)", result["sets"]["models"])
    if arguments.only != "sets":
        result["scans"] = scans()
        show("selective scan of one Vim-Ti layer, both directions (ratio over the plain loop)", result["scans"])
        result["models"] = models()
        show("models at 224 px (ratio over vim_tiny)", result["models"])
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
