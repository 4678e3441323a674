"""What half precision costs: errors against float64, merge decisions that turn out differently, and top-1.

    python benchmarks/numerics.py --images 2000 --out results/numerics/NAME.json

Everything is measured on the trained vim_nano and real images; `--device cuda` does the same with the GPU's kernels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.bench.environment import environment
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.registry import Kernels, Operands, sample_arguments, select
from rmeeto_bench.kernels.selective_scan import chunked
from rmeeto_bench.models.vim import Vim

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RS = (0, 5, 11, 20)
BATCH = 100
WORKING = ("u", "dt", "B", "C", "z")


def relative(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def in_dtype(a: ScanArguments, dtype: torch.dtype) -> ScanArguments:
    """The operands with the working tensors in another precision."""
    return replace(a, **{name: getattr(a, name).to(dtype) for name in WORKING})


def trained_operands(model: Vim, images: Tensor, layer: int = 12) -> ScanArguments:
    """What the scan of a middle layer is fed with on real images, caught on its way."""
    caught: list[ScanArguments] = []
    kernels = model.kernels

    def catch(arguments: ScanArguments) -> Tensor:
        caught.append(arguments)
        return kernels.selective_scan(arguments)

    watched = Vim(model.config, model.reduction, kernels=replace(kernels, selective_scan=catch))
    watched.load_state_dict(model.state_dict())
    watched.to(model.cls_token).eval()(images)
    return caught[layer]


def scan_errors(kernels: Kernels, operands: dict[str, ScanArguments]) -> dict[str, Any]:
    """Relative error of the scan in each precision; inputs are rounded first, so this is the kernel's own error."""
    rows: dict[str, Any] = {}
    for source, arguments in operands.items():
        for name, dtype in DTYPES.items():
            rounded = in_dtype(arguments, dtype)
            exact = chunked.selective_scan(in_dtype(rounded, torch.float64))
            rows[f"{source}, {name}"] = relative(kernels.selective_scan(rounded), exact)
    return rows


def groups(model: Vim, images: Tensor) -> Tensor:
    """Which original tokens ended up together: bool [B, L_0, L_0]."""
    source = model.forward_tokens(images, track_source=True).source
    assert source is not None
    members = (source > 0).float()  # [B, L, L_0]
    return members.transpose(1, 2) @ members > 0


def compare(r: int, device: str, backend: str, images: int) -> dict[str, Any]:
    """One ratio: logits against float64, tokens that end in another group than in fp32, top-1."""
    data = fashion_mnist.load("test").subset(images)
    models = {}
    for name, dtype in {"fp64": torch.float64, **DTYPES}.items():
        chosen = "chunked" if name == "fp64" else backend
        models[name] = rb.create_model("vim_nano", r=r, checkpoint="bundled", backend=chosen).to(device, dtype)
    errors: dict[str, list[float]] = {name: [] for name in DTYPES}
    correct = dict.fromkeys(DTYPES, 0)
    for number, batch in enumerate(data.batches(BATCH)):
        pictures = batch.images.to(device)
        exact = models["fp64"](pictures.double()) if number < 3 else None
        for name, dtype in DTYPES.items():
            logits = models[name](pictures.to(dtype)).float()
            correct[name] += int((logits.argmax(-1).cpu() == batch.labels).sum())
            if exact is not None:
                errors[name].append(relative(logits, exact))
    few = next(iter(data.batches(BATCH))).images.to(device)
    expected = groups(models["fp32"], few)
    row: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        differ = (groups(models[name], few.to(dtype)) != expected).any(-1).float().mean() if r else torch.zeros(())
        row[name] = {
            "logits_relative_error": sum(errors[name]) / len(errors[name]),
            "tokens_in_another_group": float(differ),
            "top1": 100 * correct[name] / len(data),
        }
    return row


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trained = rb.create_model("vim_nano", r=11, checkpoint="bundled", backend=arguments.backend).to(arguments.device)
    kernels = select(arguments.backend, Operands(arguments.device, 8, 4))
    images = next(iter(fashion_mnist.load("test").batches(8))).images.to(arguments.device)
    operands = {"random": sample_arguments(arguments.device, 8, 197), "trained": trained_operands(trained, images)}
    result: dict[str, Any] = {
        "environment": environment(),
        "backend": kernels.name,
        "images": arguments.images,
        "scan_relative_error": scan_errors(kernels, operands),
        "models": {},
    }
    print(json.dumps(result["scan_relative_error"], indent=1))
    for r in RS:
        result["models"][f"r={r}"] = compare(r, arguments.device, arguments.backend, arguments.images)
        print(r, json.dumps(result["models"][f"r={r}"]), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
