"""How fast the CPU path is, in processor time and wall time of turns that follow each other at once, in one process.

    python benchmarks/cpu_path.py --out results/cpu_path/NAME.json

Three parts (`--only`): `sets` has one layer's scan and Vim-Ti on every instruction set of this machine, and without any;
`peers` has what else one could run on a CPU, at the same sizes; `threads` has the speed of all cores over that of one, which
needs a quiet machine. The first two are on one thread and are best read by processor time.

Alternatives to the shipped kernels (numba, torch.compile) and transformers' Mamba live here only: they were measured and not
taken. Those that are not installed are left out.
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
from rmeeto_bench.cpus import cores
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.native import library
from rmeeto_bench.kernels.selective_scan import chunked, native, reference, stepwise

BATCH = 8
Step = Callable[[], Any]


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


@torch.inference_mode()
def in_turns(steps: dict[str, Step], baseline: str, repeats: int, images: int = BATCH) -> dict[str, Any]:
    """Milliseconds of processor and wall time an image of every step, the least of `repeats` turns, and the medians
    over turns of the baseline's times over the step's."""
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
        processor, wall = (1000 * min(values) / images for values in zip(*turns))
        ratio, wall_ratio = np.median(np.array(spent[baseline]) / np.array(turns), axis=0)
        result[name] = {"processor_ms": processor, "wall_ms": wall, "ratio": float(ratio), "wall_ratio": float(wall_ratio)}
    return result


def on(isa: str, step: Step) -> Step:
    """The step on the kernels of an instruction set."""

    def call() -> Any:
        with library.using(isa):
            return step()

    return call


def pictures() -> torch.Tensor:
    """A batch at 224 px."""
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def merged(name: str, r: int, backend: str = "auto") -> Step:
    """A forward of one of our models."""
    model, images = rb.create_model(name, r=r, backend=backend).eval().freeze(), pictures()
    return lambda: model(images)


def of_timm(name: str) -> Step:
    """A forward of one of timm's models."""
    model, images = timm.create_model(name).eval(), pictures()
    return lambda: model(images)


def instruction_sets(repeats: int) -> dict[str, Any]:
    """One layer's scan and Vim-Ti on every instruction set of this machine, and on what is left without a compiler."""
    operands = vim_tiny_operands()
    scans: dict[str, Step] = {
        "stepwise": lambda: stepwise.selective_scan(operands),
        "chunked": lambda: chunked.selective_scan(operands),
        "reference": lambda: reference.selective_scan(operands),
    }
    models = {"deit_tiny_patch16_224": of_timm("deit_tiny_patch16_224")}
    for isa in library._processor_sets():
        scans[isa] = on(isa, lambda: native.selective_scan(operands))
    for r in (0, 20):
        models |= {f"vim_tiny r={r} {isa}": on(isa, merged("vim_tiny", r)) for isa in library._processor_sets()}
        models[f"vim_tiny r={r} stepwise"] = merged("vim_tiny", r, "stepwise")
    return {
        "one layer's scan, over `stepwise`": in_turns(scans, "stepwise", repeats),
        "models at 224 px, over DeiT-Ti": in_turns(models, "deit_tiny_patch16_224", repeats),
    }


def transformers_mamba(hidden: int) -> Step:
    """transformers' Mamba on its path without CUDA: 24 layers of Vim's sizes over 197 tokens, one direction instead of two."""
    from transformers import MambaConfig, MambaModel

    sizes = MambaConfig(hidden_size=hidden, state_size=16, num_hidden_layers=24, expand=2, conv_kernel=4, use_cache=False)
    model, tokens = MambaModel(sizes).eval(), torch.randn(BATCH, 197, hidden, generator=torch.Generator().manual_seed(0))
    return lambda: model(inputs_embeds=tokens)


def compiled(scan: Callable[[ScanArguments], torch.Tensor]) -> Step:
    """A scan through torch.compile."""
    operands, call = vim_tiny_operands(), torch.compile(scan)
    return lambda: call(operands)


def numba_step() -> Step:
    """A scan through numba."""
    operands, call = vim_tiny_operands(), numba_scan()
    return lambda: call(operands)


def working(candidates: dict[str, Callable[[], Step]]) -> tuple[dict[str, Step], dict[str, float]]:
    """The steps that can be had, and the seconds of the first call of each."""
    steps, first = {}, {}
    for name, make in candidates.items():
        try:
            step, start = make(), time.perf_counter()
            step()
        except Exception as error:  # not installed, or its compiler fails
            print(f"{name}: left out, {type(error).__name__}")
            continue
        steps[name], first[name] = step, time.perf_counter() - start
    torch.set_num_threads(1)  # numba takes it back
    return steps, first


@torch.inference_mode()
def peers(repeats: int) -> dict[str, Any]:
    """What else one could run: scans by other means, and other models of the same sizes."""
    operands = vim_tiny_operands()
    scans, first = working(
        {
            "native": lambda: lambda: native.selective_scan(operands),
            "numba": numba_step,
            "torch.compile of chunked": lambda: compiled(chunked.selective_scan),
        }
    )
    table = in_turns(scans, "native", repeats)
    for name, row in table.items():
        row["first_call_seconds"] = first[name]
    models, _ = working(
        {
            "vim_tiny": lambda: merged("vim_tiny", 0),
            "vim_tiny r=11": lambda: merged("vim_tiny", 11),
            "vim_tiny r=20": lambda: merged("vim_tiny", 20),
            "deit_tiny_patch16_224": lambda: of_timm("deit_tiny_patch16_224"),
            "transformers Mamba, 192 wide": lambda: transformers_mamba(192),
            "vim_small": lambda: merged("vim_small", 0),
            "vim_small r=20": lambda: merged("vim_small", 20),
            "deit_small_patch16_224": lambda: of_timm("deit_small_patch16_224"),
            "transformers Mamba, 384 wide": lambda: transformers_mamba(384),
        }
    )
    return {
        "one layer's scan, over `native`": table,
        "models, over vim_tiny": in_turns(models, "vim_tiny", max(3, repeats // 3)),
    }


def threads(repeats: int) -> dict[str, Any]:
    """Models on all cores over the same on one: `wall_ratio` is the speed-up by threads."""
    result = {}
    for name, r in (("vim_nano", 0), ("vim_nano", 20), ("vim_tiny", 0), ("vim_tiny", 20)):
        model = rb.create_model(name, r=r).eval().freeze()
        images = torch.randn(32 if name == "vim_nano" else BATCH, *model.config.input_shape)

        def on_threads(count: int, model: Any = model, images: torch.Tensor = images) -> Step:
            def call() -> Any:
                torch.set_num_threads(count)
                return model(images)

            return call

        steps = {f"{count} threads": on_threads(count) for count in dict.fromkeys((1, cores(), 2 * cores()))}
        result[f"{name} r={r}, over one thread"] = in_turns(steps, "1 threads", 3 * repeats, len(images))
    return result


PARTS = {"sets": instruction_sets, "peers": peers, "threads": threads}


def show(title: str, table: dict[str, Any]) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, row in table.items():
        print(
            f"  {name:30} {row['processor_ms']:8.2f} ms processor, {row['wall_ms']:8.2f} ms wall an image;"
            f" {row['ratio']:7.3f}x and {row['wall_ratio']:7.3f}x"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="turns of every step (default: 9)")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "batch": BATCH}
    available = torch.get_num_threads()
    for name in [arguments.only] if arguments.only else PARTS:
        torch.set_num_threads(1)
        result[name] = PARTS[name](arguments.repeats)
        torch.set_num_threads(available)
        for title, table in result[name].items():
            show(title, table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
