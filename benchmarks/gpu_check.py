"""One run on one GPU machine without a network: are the kernels right, and how fast are they and whole models.

    python benchmarks/gpu_check.py --out results/gpu_check/NAME.json
    python benchmarks/gpu_check.py --device cpu --small        (a rehearsal without a GPU)

Needs torch, triton and numpy only; timm for the DeiT-S yardstick and mamba-ssm with causal-conv1d for the paper's own
kernels where they are installed, or where --sdists DIR has their source distributions and nvcc builds them in time. What is
done is written after every part, so a time limit loses only the part that is running.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from sdists import build_sdists

from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.registry import Kernels, Operands, scan_gradients, select
from rmeeto_bench.kernels.selective_scan import chunked
from rmeeto_bench.measure.devices.device import cpu_name
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.reduction.config import ReductionConfig

RS = (0, 5, 10, 11, 13, 15, 20)
WIDTHS = {"vim_tiny": 192, "vim_small": 384, "vim_base": 768}
LENGTHS = (197, 142, 129, 128, 76)
PARTS = ("parity", "kernels", "training", "scan_blocks", "scan_lengths", "models", "latency")


@dataclass(frozen=True)
class Bench:
    """The machine and the sizes: batch, depth and rounds are small in a rehearsal."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    depth: int
    rounds: int
    models: tuple[str, ...]
    lengths: tuple[int, ...]

    def draw(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Seeded noise in the working precision."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

    def sync(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def times(self, steps: dict[str, Callable[[], Any]], seconds: float = 0.05) -> dict[str, float]:
        """Median seconds of each step over interleaved rounds of blocks of about `seconds`."""
        counts, found = {}, {name: [] for name in steps}
        for name, step in steps.items():
            for _ in range(3):
                step()
            self.sync()
            start = time.perf_counter()
            step()
            self.sync()
            counts[name] = max(1, min(200, int(seconds / (time.perf_counter() - start))))
        for _ in range(self.rounds):
            for name, step in steps.items():
                self.sync()
                start = time.perf_counter()
                for _ in range(counts[name]):
                    step()
                self.sync()
                found[name].append((time.perf_counter() - start) / counts[name])
        return {name: statistics.median(values) for name, values in found.items()}


def scan_operands(bench: Bench, length: int, inner: int) -> ScanArguments:
    """Operands as a block of Vim has them: B, C and z are column ranges."""
    x_dbl, xz = bench.draw(2, bench.batch, length, 24 + 32), bench.draw(bench.batch, length, 2 * inner)
    B, C = x_dbl[..., 24:].chunk(2, dim=-1)
    return ScanArguments(
        u=bench.draw(2, bench.batch, length, inner),
        dt=bench.draw(2, bench.batch, length, inner, seed=1) - 4,
        A=-torch.arange(1, 17, device=bench.device).float().repeat(2, inner, 1),
        B=B,
        C=C,
        D=torch.ones(2, inner, device=bench.device),
        z=xz[..., inner:],
        dt_bias=torch.zeros(2, inner, device=bench.device),
        scale=0.5,
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm, in fp64."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def parity(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Every kernel and a whole merged model against the references, in fp32 and the working precision."""
    result: dict[str, Any] = {}
    for dtype in dict.fromkeys((torch.float32, bench.dtype)):
        b = replace(bench, dtype=dtype, batch=2)
        name = str(dtype).removeprefix("torch.")
        a = scan_operands(b, 197, 128)
        exact = chunked.selective_scan(replace(a, **{n: getattr(a, n).double() for n in ("u", "dt", "B", "C", "z")}))
        taps, bias = b.draw(2, 128, 4), b.draw(2, 128)
        expected = conv_reference.causal_conv1d(a.z.double(), taps.double(), bias.double())
        hidden, residual, weight = b.draw(2, 197, 384), b.draw(2, 197, 384, seed=1).float(), b.draw(384)
        normed, _ = add_norm_reference.add_norm(hidden.double(), residual.double(), weight.double(), 1e-5)
        row = {
            "scan": relative(fast.selective_scan(a), exact),
            "conv": relative(fast.causal_conv1d(a.z, taps, bias), expected),
            "add_norm": relative(fast.add_norm(hidden, residual, weight, 1e-5)[0], normed),
        }
        row |= {f"scan gradient of {n}": v for n, v in gradient_errors(fast, a).items()}
        if fast.merge is not None:
            plan, wanted = fast.merge.match(hidden, 98, 88, 20), merge_reference.match(hidden, 98, 88, 20)
            row["match_rows_that_differ"] = int((plan.survivors != wanted.survivors).sum())
            found = fast.merge.merge_add_norm((hidden, residual), None, wanted, weight, 1e-5)
            right = merge_reference.merge_add_norm((hidden, residual), None, wanted, weight, 1e-5)
            row["merge"] = relative(found[1], right[1])
        model = build(b, "vim_tiny", 20, fast)
        plain = build(b, "vim_tiny", 20, select("chunked", Operands(b.device.type, 16, 4)))
        images = b.draw(2, 3, 224, 224)
        row["logits of vim_tiny r=20"] = relative(model(images), plain(images))
        if b.device.type == "cuda":
            row["graph equals eager"] = bool(torch.equal(GraphedForward(model)(images), model(images)))
        result[name] = row
    return result


def gradient_errors(fast: Kernels, a: ScanArguments) -> dict[str, float]:
    """Relative error of every gradient of the scan against the reference in fp64."""
    found = scan_gradients(fast.selective_scan, a)
    exact = scan_gradients(
        chunked.selective_scan, replace(a, **{n: getattr(a, n).double() for n in ("u", "dt", "B", "C", "z")})
    )
    return {name: relative(found[name], exact[name]) for name in found}


def training(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Forward and backward of one Vim-S scan: ms of ours and of the chunked scan in torch, and the memory of each."""
    b = replace(bench, batch=max(1, bench.batch // 4))  # the chunked scan keeps all states, several times
    a = scan_operands(b, 197, 768)
    steps: dict[str, Callable[[], Any]] = {
        "ours": lambda: scan_gradients(fast.selective_scan, a),
        "chunked": lambda: scan_gradients(chunked.selective_scan, a),
    }
    seconds = b.times(steps)
    rows: dict[str, Any] = {"batch": b.batch}
    for name, step in steps.items():
        rows[name] = {"ms": 1e3 * seconds[name]}
        if b.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            rows[name]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return rows


def build(bench: Bench, name: str, r: int, kernels: Kernels) -> Vim:
    """A Vim with the same random weights for every backend, on exactly these kernels."""
    torch.manual_seed(0)
    model = Vim(VimConfig(embed_dim=WIDTHS[name], depth=bench.depth), ReductionConfig(r=r), kernels=kernels)
    return model.to(bench.device, bench.dtype).eval()


def kernels(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Each kernel of a Vim-S block alone: milliseconds, GB/s of what it must move, share of the GPU's bandwidth."""
    batch, length, inner, dim, size = bench.batch, 197, 768, 384, torch.finfo(bench.dtype).bits // 8
    a = scan_operands(bench, length, inner)
    taps, bias = bench.draw(2, inner, 4), bench.draw(2, inner)
    hidden, residual = bench.draw(batch, length, dim), bench.draw(batch, length, dim, seed=1).float()
    weight, square = bench.draw(dim), bench.draw(dim, 4 * dim)
    tokens = batch * length
    steps: dict[str, tuple[Callable[[], Any], int]] = {
        "scan": (lambda: fast.selective_scan(a), tokens * inner * size * (4 + 1 + 3)),
        "conv": (lambda: fast.causal_conv1d(a.z, taps, bias), tokens * inner * size * 3),
        "add_norm": (lambda: fast.add_norm(hidden, residual, weight, 1e-5), tokens * dim * (2 * size + 8)),
        "in_proj GEMM": (lambda: hidden @ square, tokens * dim * size * 5),
        "copy (yardstick)": (lambda: residual.clone(), tokens * dim * 8),
    }
    if fast.merge is not None:
        merge, plan = fast.merge, fast.merge.match(hidden, 98, 95, 5)
        steps["match"] = (lambda: merge.match(hidden, 98, 95, 5), tokens * dim * size)
        steps["merge_add_norm"] = (
            lambda: merge.merge_add_norm((hidden, residual), None, plan, weight, 1e-5),
            tokens * dim * (2 * size + 8),
        )
    found = bench.times({name: step for name, (step, _) in steps.items()})
    profile = match_profile(torch.cuda.get_device_name(bench.device), None) if bench.device.type == "cuda" else None
    rows = {}
    for name, seconds in found.items():
        rate = steps[name][1] / seconds / 1e9
        rows[name] = {"ms": 1e3 * seconds, "gb_per_s": rate}
        if profile is not None and profile.bandwidth_gbs:
            rows[name]["share_of_bandwidth"] = rate / profile.bandwidth_gbs
    exponentials = 2 * tokens * inner * 16
    rows["scan"]["exponentials_per_s"] = exponentials / found["scan"]
    if profile is not None and profile.sfu_per_clock:
        limit = profile.multiprocessors * profile.sfu_per_clock * profile.boost_mhz * 1e6
        rows["scan"]["share_of_sfu"] = 2 * tokens * inner * (16 + 2) / found["scan"] / limit
    return rows


def scan_blocks(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The scan of a Vim-S block at each launch shape, ms, beside the one that `launch_shape` chooses."""
    if fast.name != "triton" or bench.device.type != "cuda":
        return {"skipped": "only the triton scan on a GPU has launch shapes"}
    from rmeeto_bench.kernels.selective_scan import triton as scan

    batch, length, inner = bench.batch, 197, 768
    a = scan_operands(bench, length, inner)
    out = torch.empty_like(a.u[0])
    steps = {str(tuple(shape)): (lambda shape=shape: scan.launch(shape, a, out)) for shape in scan.SHAPES}
    chosen = scan.launch_shape(batch, inner, *scan.card(bench.device))
    return {"chosen": str(tuple(chosen)), **{name: 1e3 * seconds for name, seconds in bench.times(steps).items()}}


def backends(bench: Bench) -> tuple[dict[str, Kernels], dict[str, str]]:
    """The paper's own kernels where they are installed, else upstream's sequence of operations on ours; and why."""
    operands = Operands(bench.device.type, 16, 4)
    fast = select("auto", operands)
    found, refused = {fast.name: fast}, dict(fast.refused)
    try:
        found["upstream"] = select("mamba_ssm", operands)
    except RmeetoError as error:
        refused["mamba_ssm"] = str(error)
        found["upstream sequence on our kernels"] = upstream_sequence(fast)
    return found, refused


def upstream_sequence(fast: Kernels) -> Kernels:
    """Upstream's copies around our kernels: transposed to channel-major and flipped (twice, so that values stay), merging in
    torch. A kinder baseline than the paper's own: its scan, the slowest part, is ours."""

    def channel_major(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    def selective_scan(a: ScanArguments) -> torch.Tensor:
        copies = {name: channel_major(getattr(a, name)).flip(-2).flip(-2) for name in ("u", "dt", "B", "C", "z")}
        return channel_major(fast.selective_scan(replace(a, **copies)))

    def causal_conv1d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return channel_major(fast.causal_conv1d(channel_major(x).flip(1).flip(1), weight, bias))

    return Kernels("upstream sequence", selective_scan, causal_conv1d, add_norm_reference.add_norm)


def scan_lengths(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The scan of a Vim-S block alone at the lengths where the paper's kernel changes its padding, ms."""
    result = {}
    for name, chosen in backends(bench)[0].items():
        operands = {length: scan_operands(bench, length, 768) for length in bench.lengths}
        steps = {str(length): (lambda a=a, scan=chosen.selective_scan: scan(a)) for length, a in operands.items()}
        result[name] = {length: 1e3 * seconds for length, seconds in bench.times(steps).items()}
    return result


def deit(bench: Bench) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """DeiT-S compiled, where timm is installed."""
    try:
        import timm

        model = timm.create_model("deit_small_patch16_224").to(bench.device, bench.dtype).eval()
        return {"deit_small compiled": torch.compile(model) if bench.device.type == "cuda" else model}
    except Exception as error:
        print(f"no DeiT-S yardstick: {type(error).__name__}: {error}")
        return {}


def models(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Images/s of whole models at every r: with graphs, without, and upstream; DeiT-S beside Vim-S."""
    result: dict[str, Any] = {"backends": {}, "refused": {}, "images_per_second": {}}
    chosen, result["refused"] = backends(bench)
    images = bench.draw(bench.batch, 3, 224, 224)
    for name in bench.models:
        rows: dict[str, Any] = {}
        for r in RS:
            built: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
            for label, backend in chosen.items():
                model = build(bench, name, r, backend)
                built[label] = model
                if backend is fast and bench.device.type == "cuda":
                    built[f"{label} + graph"] = GraphedForward(model)
            if name == "vim_small" and r == 0:
                built |= deit(bench)
            steps = {label: (lambda forward=forward: forward(images)) for label, forward in built.items()}
            try:
                found = bench.times(steps, 0.2)
            except torch.OutOfMemoryError:
                rows[str(r)] = {"out of memory": True}
                continue
            rows[str(r)] = {label: bench.batch / seconds for label, seconds in found.items()}
            print(name, r, {label: round(rate, 1) for label, rate in rows[str(r)].items()}, flush=True)
        result["images_per_second"][name] = rows
    return result


def latency(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The same at batch 1."""
    return models(replace(bench, batch=1, models=bench.models[:2]), fast)


def markdown(result: dict[str, Any]) -> str:
    """The table of whole models."""
    lines = [f"# {result['provenance']['device']}", ""]
    for part in ("models", "latency"):
        for model, rows in result.get(part, {}).get("images_per_second", {}).items():
            labels = list(dict.fromkeys(label for row in rows.values() for label in row))
            lines += [f"## {model}, {part}, images/s", "", "| r | " + " | ".join(labels) + " |"]
            lines.append("|" + " ---: |" * (len(labels) + 1))
            for r, row in rows.items():
                cells = (f"{row[label]:.1f}" if label in row else "" for label in labels)
                lines.append(f"| {r} | " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


def provenance(bench: Bench) -> dict[str, Any]:
    """What the numbers belong to."""
    gpu = bench.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(bench.device) if gpu else cpu_name(),
        "capability": torch.cuda.get_device_capability(bench.device) if gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": sys.modules["triton"].__version__ if "triton" in sys.modules else None,
        "python": platform.python_version(),
        "batch": bench.batch,
        "depth": bench.depth,
        "dtype": str(bench.dtype),
        "rounds": bench.rounds,
    }


@torch.inference_mode()
def main() -> int:
    """Run the parts asked for; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="small sizes, for a rehearsal")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated, in this order")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which no further part begins")
    parser.add_argument("--sdists", type=Path, help="folder with the sdists of causal-conv1d and mamba-ssm, to be built")
    parser.add_argument("--build-limit", type=float, default=240, help="seconds for building them")
    parser.add_argument("--out", type=Path, help="write JSON here and a Markdown table beside it")
    arguments = parser.parse_args()
    gpu = arguments.device == "cuda"
    bench = Bench(
        device=torch.device(arguments.device),
        dtype=torch.float16 if gpu else torch.float32,
        batch=4 if arguments.small else 128,
        depth=4 if arguments.small else 24,
        rounds=2 if arguments.small else 7,
        models=("vim_tiny",) if arguments.small else ("vim_small", "vim_tiny", "vim_base"),
        lengths=LENGTHS[-2:] if arguments.small else LENGTHS,
    )
    built = build_sdists(arguments.sdists, arguments.build_limit) if arguments.sdists else {}
    fast = select("auto", Operands(bench.device.type, 16, 4))
    result: dict[str, Any] = {"built": built, "kernels_of": fast.name, "refused": dict(fast.refused)}
    failed, start = False, time.perf_counter()
    for part in arguments.parts.split(","):
        if time.perf_counter() - start > arguments.limit:
            print(f"{part}: left out, the time is up")
            continue
        began = time.perf_counter()
        try:
            result[part] = globals()[part](bench, fast)
        except Exception as error:
            result[part], failed = {"failed": f"{type(error).__name__}: {error}"}, True
        result["provenance"] = provenance(bench)
        result.setdefault("seconds", {})[part] = time.perf_counter() - began
        print(part, json.dumps(result[part], indent=1), flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            arguments.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
