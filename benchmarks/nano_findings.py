"""Does the paper's finding hold on vim_nano? Merging against pruning, order against none, before and after re-training.

    python benchmarks/nano_findings.py --trained DIR --out results/vim_nano

DIR holds what `rmeeto-bench retrain` wrote beside the bundled weights: the control (r = 0 trained on as long as the
others), and the pruned and unordered models. Every accuracy is over all 10,000 test images; every difference is paired
by image over the bundled baseline.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.reader import load_checkpoint
from rmeeto_bench.data import fashion_mnist
from rmeeto_bench.measure.statistics import paired_delta
from rmeeto_bench.models.zoo import bundled_checkpoint

RS = (5, 10, 11, 13, 15, 20)
WAYS = {
    "merge": {},
    "merge, unordered": {"ordered": False},
    "prune": {"prune": True},
    "merge, odd blocks": {"placement": "odd"},
}


@dataclass(frozen=True)
class Case:
    """One row: a way of reducing at r, and which weights it ran on."""

    weights: str
    way: str
    r: int
    path: Path


def cases(trained: Path) -> list[Case]:
    """Training-free every way at every r; re-trained as bundled; re-trained the other ways where there are files."""
    baseline = bundled_checkpoint("vim_nano", 0)
    assert baseline is not None
    found = [Case("baseline", "none", 0, baseline)]
    found += [Case("training-free", way, r, baseline) for way in WAYS for r in RS]
    for r in RS:
        path = bundled_checkpoint("vim_nano", r)
        if path is not None:
            found.append(Case("re-trained", "merge", r, path))
    extra = {
        "vim_nano_r0": ("none", 0),
        "vim_nano_r20-prune": ("prune", 20),
        "vim_nano_r20-unordered": ("merge, unordered", 20),
    }
    for stem, (way, r) in extra.items():
        path = trained / f"{stem}.safetensors"
        if path.is_file():
            found.append(Case("re-trained", way, r, path))
    return found


@torch.inference_mode()
def correct(case: Case) -> np.ndarray:
    """Whether each of the 10,000 first predictions is right."""
    model = rb.create_model("vim_nano", reduction=replace(rb.ReductionConfig(r=case.r), **WAYS.get(case.way, {})))
    load_checkpoint(model, case.path)
    hits = []
    for batch in fashion_mnist.load("test").batches(250):
        hits.append((model(batch.images).argmax(-1) == batch.labels).numpy())
    return np.concatenate(hits)


def main() -> None:
    """Evaluate everything, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for case in cases(arguments.trained):
        hits = correct(case)
        reference = hits if reference is None else reference
        row: dict[str, Any] = {"weights": case.weights, "way": case.way, "r": case.r, "top1": 100 * float(hits.mean())}
        if case.weights != "baseline":
            delta = paired_delta(reference, hits)
            row |= {"delta": delta.value, "delta_low": delta.low, "delta_high": delta.high}
        rows.append(row)
        print(json.dumps(row), flush=True)
    lines = ["| weights | reduction | r | top-1 % | Δ points [95 %] |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        delta = f"{row['delta']:+.2f} [{row['delta_low']:+.2f}, {row['delta_high']:+.2f}]" if "delta" in row else ""
        lines.append(f"| {row['weights']} | {row['way']} | {row['r']} | {row['top1']:.2f} | {delta} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "findings.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "findings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
