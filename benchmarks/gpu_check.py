"""One run on one GPU machine without a network: are the kernels right, and how fast are they and whole models?

    python benchmarks/gpu_check.py --out results/gpu_check/NAME.json
    python benchmarks/gpu_check.py --device cpu --small        (a rehearsal without a GPU)

Everything is timed by the package's own loop of interleaved rounds, single kernels many times over within a graph, and stands
beside what benchmarks/predicted.py says of this card. Needs torch and triton; timm for the DeiT-S yardstick and mamba-ssm with
causal-conv1d for the paper's own kernels where they are installed, or where --sdists DIR has their source distributions and
nvcc builds them in time. What is done is written after every part, so a time limit loses only the part that is running.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_bench import PROTOCOL, Bench
from sdists import build_sdists

from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.registry import Kernels, Operands, scan_gradients, select
from rmeeto_bench.kernels.selective_scan import chunked
from rmeeto_bench.kernels.selective_scan import triton as scan_triton
from rmeeto_bench.measure.devices.device import find_devices
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.parts import parts_of
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig

RS = (0, 5, 10, 11, 13, 15, 20)
WIDTHS = {"vim_nano": 32, "vim_tiny": 192, "vim_small": 384, "vim_base": 768}
SHARES = (1.0, 0.721, 0.655, 0.65, 0.386)  # 197, 142, 129, 128 and 76 tokens: where the paper's kernel changes its padding
PARTS = ("parity", "kernels", "training", "scan_shapes", "scan_lengths", "parts", "models", "latency")


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
        a = scan_operands(b, b.tokens, b.dim // 3)
        exact = chunked.selective_scan(replace(a, **{n: getattr(a, n).double() for n in ("u", "dt", "B", "C", "z")}))
        taps, bias = b.draw(2, b.dim // 3, 4), b.draw(2, b.dim // 3)
        expected = conv_reference.causal_conv1d(a.z.double(), taps.double(), bias.double())
        sizes = (2, b.tokens, b.dim)
        hidden, residual, weight = b.draw(*sizes), b.draw(*sizes, seed=1).float(), b.draw(b.dim)
        normed, _ = add_norm_reference.add_norm(hidden.double(), residual.double(), weight.double(), 1e-5)
        row = {
            "scan": relative(fast.selective_scan(a), exact),
            "conv": relative(fast.causal_conv1d(a.z, taps, bias), expected),
            "add_norm": relative(fast.add_norm(hidden, residual, weight, 1e-5)[0], normed),
        }
        row |= {f"scan gradient of {n}": v for n, v in gradient_errors(fast, a).items()}
        if fast.merge is not None:
            places = (b.tokens // 2, b.tokens // 2 - b.tokens // 20, b.tokens // 10)
            plan, wanted = fast.merge.match(hidden, *places), merge_reference.match(hidden, *places)
            row["match_rows_that_differ"] = int((plan.survivors != wanted.survivors).sum())
            found = fast.merge.merge_add_norm((hidden, residual), None, wanted, weight, 1e-5)
            right = merge_reference.merge_add_norm((hidden, residual), None, wanted, weight, 1e-5)
            row["merge"] = relative(found[1], right[1])
        model = build(b, b.models[-1], 20, fast)
        plain = build(b, b.models[-1], 20, select("chunked", Operands(b.device.type, 16, 4)))
        images = b.draw(2, 3, b.size, b.size)
        row["logits at r=20"] = relative(model(images), plain(images))
        if b.gpu:
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
    a = scan_operands(b, b.tokens, 2 * b.dim)
    steps: dict[str, Callable[[], Any]] = {
        "ours": lambda: scan_gradients(fast.selective_scan, a),
        "chunked": lambda: scan_gradients(chunked.selective_scan, a),
    }
    seconds = b.times(steps)
    rows: dict[str, Any] = {"batch": b.batch}
    for name, step in steps.items():
        rows[name] = {"ms": 1e3 * seconds[name]}
        if b.gpu:
            torch.cuda.reset_peak_memory_stats()
            step()
            rows[name]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return rows


def build(bench: Bench, name: str, r: int, kernels: Kernels) -> Vim:
    """A Vim with the same random weights for every backend, on exactly these kernels."""
    torch.manual_seed(0)
    model = Vim(
        VimConfig(embed_dim=WIDTHS[name], depth=bench.depth, img_size=bench.size), ReductionConfig(r=r), kernels=kernels
    )
    return model.to(bench.device, bench.dtype).eval()


def kernels(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Each kernel of a Vim-S block alone: milliseconds, those predicted, GB/s of what it must move, share of the bandwidth."""
    batch, length, dim, size = bench.batch, bench.tokens, bench.dim, torch.finfo(bench.dtype).bits // 8
    inner, middle = 2 * dim, length // 2
    a = scan_operands(bench, length, inner)
    taps, bias = bench.draw(2, inner, 4), bench.draw(2, inner)
    hidden, residual = bench.draw(batch, length, dim), bench.draw(batch, length, dim, seed=1).float()
    weight, square = bench.draw(dim), bench.draw(dim, 4 * dim)
    tokens = batch * length
    steps: dict[str, tuple[Callable[[], Any], int]] = {
        "scan": (lambda: fast.selective_scan(a), tokens * inner * size * (4 + 1 + 3)),
        "conv": (lambda: fast.causal_conv1d(a.z, taps, bias), tokens * inner * size * 3),
        "add_norm": (lambda: fast.add_norm(hidden, residual, weight, 1e-5), tokens * dim * (2 * size + 8)),
        "in_proj": (lambda: hidden @ square, tokens * dim * size * 5),
        "copy (yardstick)": (lambda: residual.clone(), tokens * dim * 8),
    }
    if fast.merge is not None:
        merge, plan = fast.merge, fast.merge.match(hidden, middle, middle - 3, 5)
        steps["match"] = (lambda: merge.match(hidden, middle, middle - 3, 5), tokens * dim * size)
        steps["merge"] = (
            lambda: merge.merge_add_norm((hidden, residual), None, plan, weight, 1e-5), tokens * dim * (2 * size + 8)
        )  # fmt: skip
    found = bench.times({name: bench.repeated(step) for name, (step, _) in steps.items()})
    card = bench.card
    expected = {} if card is None else card.kernels(batch, length, 5, dim)
    rows: dict[str, Any] = {}
    for name, seconds in found.items():
        rate = steps[name][1] / seconds / 1e9
        rows[name] = {"ms": 1e3 * seconds, "gb_per_s": rate}
        if name in expected:
            rows[name] |= {"predicted_ms": 1e3 * expected[name], "times_predicted": seconds / expected[name]}
        if card is not None:
            rows[name]["share_of_bandwidth"] = rate / card.profile.bandwidth_gbs
    return rows


def scan_shapes(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The scan of a Vim-S block in each launch shape, ms, beside the one that `launch_shape` chooses."""
    if fast.name != "triton":
        return {"skipped": "only the triton scan has launch shapes"}
    a, choose = scan_operands(bench, bench.tokens, 2 * bench.dim), scan_triton.launch_shape
    steps = {}
    try:
        for shape in scan_triton.SHAPES:
            scan_triton.launch_shape = lambda *_, shape=shape: shape  # a graph keeps the shape of its capture
            steps[str(tuple(shape))] = bench.repeated(lambda: fast.selective_scan(a))
    finally:
        scan_triton.launch_shape = choose
    chosen = choose(bench.batch, 2 * bench.dim, *scan_triton.card(bench.device))
    return {"chosen": str(tuple(chosen)), **{name: 1e3 * seconds for name, seconds in bench.times(steps).items()}}


def backends(bench: Bench) -> tuple[dict[str, Kernels], dict[str, str]]:
    """The paper's own kernels where they are installed, else upstream's sequence of operations on ours; and why."""
    operands = Operands(bench.device.type, 16, 4)
    fast = select("auto", operands)
    found, refused = {fast.name: fast}, dict(fast.refused)
    try:
        found["upstream"] = replace(select("mamba_ssm", operands), returns=True)
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

    return Kernels("upstream sequence", selective_scan, causal_conv1d, fast.add_norm, returns=True)


def scan_lengths(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The scan of a Vim-S block alone at the lengths where the paper's kernel changes its padding, ms."""
    result, lengths = {}, [round(share * bench.tokens) for share in bench.shares]
    for name, chosen in backends(bench)[0].items():
        operands = {length: scan_operands(bench, length, 2 * bench.dim) for length in lengths}
        try:
            steps = {n: bench.repeated(lambda a=a: chosen.selective_scan(a)) for n, a in operands.items()}  # noqa: B023
            result[name] = {str(n): 1e3 * seconds for n, seconds in bench.times(steps).items()}
        except RuntimeError as error:  # a foreign scan may not allow a capture
            result[name] = {"failed": str(error)}
    return result


def parts(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Images/s of a model whose batch goes through it in 1, 2 or 4 parts, and the quickest beside what the package chooses."""
    if not bench.gpu or fast.name != "triton":
        return {"skipped": "only graphs of the triton kernels are cut"}
    images, result = bench.draw(bench.batch, 3, bench.size, bench.size), dict[str, Any]()
    for r in (bench.ratios[0], bench.ratios[-1]):
        chosen = parts_of(model := build(bench, bench.models[0], r, fast), images)
        cut = {n: GraphedForward(model, parts=n) for n in sorted({1, 2, 4, chosen}) if n <= bench.batch}
        steps = {str(n): (lambda forward=forward: forward(images)) for n, forward in cut.items()}
        rates = {n: bench.batch / seconds for n, seconds in bench.times(steps).items()}
        result[f"r={r}"] = {"images_per_second": rates, "quickest": max(rates, key=rates.__getitem__), "chosen": str(chosen)}
        if card := bench.card:
            seconds = {n: card.forward(bench.batch, r, WIDTHS[bench.models[0]], n) for n in cut}
            result[f"r={r}"]["predicted"] = {str(n): bench.batch / sum(one.values()) for n, one in seconds.items()}
    return result


def deit(bench: Bench) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """DeiT-S compiled, where timm is installed."""
    try:
        import timm

        model = timm.create_model("deit_small_patch16_224").to(bench.device, bench.dtype).eval()
        return {"deit_small compiled": torch.compile(model) if bench.gpu else model}
    except Exception as error:
        print(f"no DeiT-S yardstick: {type(error).__name__}: {error}")
        return {}


def models(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """Images/s of whole models at every r: with graphs, without, and upstream; DeiT-S beside Vim-S."""
    result: dict[str, Any] = {"images_per_second": {}}
    chosen, result["refused"] = backends(bench)
    images = bench.draw(bench.batch, 3, bench.size, bench.size)
    for name in bench.models:
        rows: dict[str, Any] = {}
        for r in bench.ratios:
            built: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
            for label, backend in chosen.items():
                model = build(bench, name, r, backend)
                built[label] = model
                if backend is fast and bench.gpu:
                    built[f"{label} + graph"] = GraphedForward(model)
            if name == "vim_small" and r == 0:
                built |= deit(bench)
            steps = {label: (lambda forward=forward: forward(images)) for label, forward in built.items()}
            try:
                found = bench.times(steps)
            except torch.OutOfMemoryError:
                rows[str(r)] = {"out of memory": True}
                continue
            rows[str(r)] = {label: bench.batch / seconds for label, seconds in found.items()}
            if bench.card is not None:
                seconds = bench.card.forward(bench.batch, r, WIDTHS[name])
                rows[str(r)]["predicted"] = bench.batch / sum(seconds.values())
            print(name, r, {label: round(rate, 1) for label, rate in rows[str(r)].items()}, flush=True)
        result["images_per_second"][name] = rows
    return result


def latency(bench: Bench, fast: Kernels) -> dict[str, Any]:
    """The same at batch 1."""
    return models(replace(bench, batch=1, models=bench.models[:2]), fast)


def markdown(result: dict[str, Any]) -> str:
    """The tables of kernels and of whole models."""
    lines = [f"# {result['provenance']['device']}", ""]
    measured = {name: row for name, row in result.get("kernels", {}).items() if isinstance(row, dict) and "predicted_ms" in row}
    if measured:
        lines += ["| kernel | ms | predicted | times |", "| --- | ---: | ---: | ---: |"]
        lines += [
            f"| {n} | {r['ms']:.3f} | {r['predicted_ms']:.3f} | {r['times_predicted']:.2f} |" for n, r in measured.items()
        ]
        lines.append("")
    for part in ("parts", "models", "latency"):
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
    return {
        "device": bench.place.name,
        "details": bench.place.details(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": sys.modules["triton"].__version__ if "triton" in sys.modules else None,
        "python": platform.python_version(),
        "batch": bench.batch,
        "depth": bench.depth,
        "dtype": str(bench.dtype),
        "rounds": bench.protocol.max_rounds,
        "sm_mhz": statistics.median(bench.clocks) if bench.clocks else None,
    }


@torch.no_grad()
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
    gpu, small = arguments.device == "cuda", arguments.small
    try:
        place = find_devices("0" if gpu else "none")[0]
    except RmeetoError as error:
        parser.exit(error.exit_code, f"{error}\n")
    bench = Bench(
        place=place,
        dtype=torch.float16 if gpu else torch.float32,
        batch=2 if small else 128,
        depth=3 if small else 24,
        size=64 if small else 224,
        dim=24 if small else 384,
        protocol=replace(PROTOCOL, block_seconds=0.01, max_rounds=2, min_rounds=2, warmup_seconds=0.0, warmup_limit=0.0)
        if small
        else PROTOCOL,
        models=("vim_nano",) if small else ("vim_small", "vim_tiny", "vim_base"),
        ratios=RS[:2] if small else RS,
        shares=SHARES[:1] if small else SHARES,
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
            write_atomic(arguments.out, json.dumps(result, indent=1) + "\n")
            write_atomic(arguments.out.with_suffix(".md"), markdown(result))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
