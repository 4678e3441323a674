"""Does the paper's finding hold on vim_nano? Merging against pruning, ordered against not, before and after re-training.

    python benchmarks/retrain_demo.py --work demo --out results/retrain_demo
    python benchmarks/retrain_demo.py --work demo --out results/retrain_demo --rs 11,20 --seeds 3 --images 10000

Trains every way of reducing at every r with every seed from the shipped baseline (preset `nano`), evaluates each on all
10,000 test images, and writes findings.json, findings.md and curves.png. Whatever is finished in --work is kept, and a cell
that was cut short goes on from its last state: stop it and start it again as you like, or widen the grid.

Differences are paired by image. An interval joins the spread over seeds (Student's t) and over images (normal) in
quadrature; a training-free row has one set of weights, so only the images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.reader import load_checkpoint
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.files import write_atomic
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.loop import Progress
from rmeeto_bench.retrain.presets import preset
from rmeeto_bench.retrain.recipe import changed
from rmeeto_bench.retrain.session import Files, Training, finished, train_one

WAYS: dict[str, dict[str, Any]] = {"merge": {}, "merge, unordered": {"ordered": False}, "prune": {"prune": True}}
RS = (0, 5, 10, 11, 13, 15, 20)


@dataclass(frozen=True)
class Plan:
    """The grid. `images`: training images per epoch, of 60,000; `work` keeps weights, logs and predictions."""

    work: Path
    data: Path | None
    rs: tuple[int, ...]
    seeds: tuple[int, ...]
    ways: tuple[str, ...]
    images: int
    epochs: float

    def session(self, way: str, seed: int, available: int) -> Training:
        """The training of one way with one seed, at any r."""
        changes = {"fraction": min(1.0, self.images / available), "seed": seed, "schedule.epochs": self.epochs}
        name = f"images{self.images}_epochs{self.epochs:g}_seed{seed}"
        files = Files(self.work / name, resume=True)
        return Training(
            "vim_nano", changed(preset("nano"), changes), self.data, None, files, reduction=ReductionConfig(**WAYS[way])
        )


@dataclass(frozen=True)
class Row:
    """One way at one r: predictions of each seed [seeds, images] bool. `weights`: baseline, training-free, re-trained."""

    weights: str
    way: str
    r: int
    hits: np.ndarray

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the row."""
        return self.weights, self.way, self.r


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Accuracy of `second` minus `first` in points, both [seeds, images] (a single seed stands for all), 95 %."""
    per_seed = second.astype(float) - first.astype(float)  # [seeds, images]
    seeds, images = per_seed.shape
    spread = 0.0
    if seeds > 1:
        spread = stats.t.ppf(0.975, seeds - 1) * per_seed.mean(1).std(ddof=1) / np.sqrt(seeds)
    sampling = stats.norm.ppf(0.975) * per_seed.mean(0).std(ddof=1) / np.sqrt(images)
    value, half = 100 * float(per_seed.mean()), 100 * float(np.hypot(spread, sampling))
    return {"value": value, "low": value - half, "high": value + half, "seed_part": 100 * float(spread)}


@torch.inference_mode()
def _predict(reduction: ReductionConfig, checkpoint: Path, cache: Path) -> np.ndarray:
    """Whether each of the 10,000 first predictions is right; kept beside the weights."""
    if cache.is_file() and cache.stat().st_mtime >= checkpoint.stat().st_mtime:
        return np.load(cache, allow_pickle=False)
    model = rb.create_model("vim_nano", reduction=reduction)
    load_checkpoint(model, checkpoint)
    batches = fashion_mnist.load("test").batches(250)
    hits = np.concatenate([(model(batch.images).argmax(-1) == batch.labels).numpy() for batch in batches])
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, hits)
    return hits


def _tell(progress: Progress) -> None:
    if progress.step % 100 == 0:
        left = (progress.steps - progress.step) * progress.seconds / progress.step
        print(f"    step {progress.step}/{progress.steps}  {progress.images_per_second:.0f} images/s  {left / 60:.1f} min left")


def train_all(plan: Plan) -> list[dict[str, Any]]:
    """Train what is not there yet; minutes, images/s and loss curves of every cell."""
    available = len(fashion_mnist.load("train", plan.data))
    world, cells = World(torch.device("cpu")), []
    for seed in plan.seeds:
        for way in plan.ways:
            for r in plan.rs:
                if r == 0 and way != "merge":
                    continue  # nothing is reduced at r = 0: one control serves all ways
                session = plan.session(way, seed, available)
                began, result = time.perf_counter(), finished(session, r)
                known = result is not None
                if result is None:
                    result = train_one(session, r, world, _tell)
                cells.append({"way": way, "r": r, "seed": seed, "minutes": result.minutes, "top1": result.top1})
                spent = "finished before" if known else f"{(time.perf_counter() - began) / 60:.1f} min with evaluation"
                print(f"{way} r={r} seed {seed}: top-1 {result.top1:.2f} % ({spent})", flush=True)
    return cells


def rows(plan: Plan) -> Iterator[Row]:
    """Predictions of the baseline, of every way training-free, and re-trained."""
    available = len(fashion_mnist.load("train", plan.data))
    baseline = bundled_checkpoint("vim_nano", 0)
    assert baseline is not None
    shared = plan.work / "training_free"
    yield Row("baseline", "none", 0, _predict(ReductionConfig(), baseline, shared / "r0.npy")[None])
    for way in plan.ways:
        for r in plan.rs:
            reduction = ReductionConfig(r=r, **WAYS[way])
            if r:
                stem = plan.session(way, 0, available).stem(r).name
                yield Row("training-free", way, r, _predict(reduction, baseline, shared / f"{stem}.npy")[None])
            elif way != "merge":
                continue
            hits = []
            for seed in plan.seeds:
                stem = plan.session(way, seed, available).stem(r)
                hits.append(_predict(reduction, stem.with_suffix(".safetensors"), stem.with_suffix(".npy")))
            yield Row("re-trained", way if r else "none", r, np.stack(hits))


def findings(plan: Plan, found: list[Row]) -> dict[str, Any]:
    """Accuracies over the baseline, and the contrasts the paper draws: each way against merging, trained against not."""
    by_key = {row.key: row for row in found}
    baseline = by_key["baseline", "none", 0]
    accuracies, contrasts = [], []
    for row in found:
        ratio = rb.create_model("vim_nano", reduction=ReductionConfig(r=row.r, **WAYS.get(row.way, {}))).reduction_ratio
        entry = {
            "weights": row.weights,
            "way": row.way,
            "r": row.r,
            "reduction_ratio": ratio,
            "top1": 100 * float(row.hits.mean()),
        }
        accuracies.append({**entry, "delta": difference(baseline.hits, row.hits)} if row is not baseline else entry)
    for weights in ("training-free", "re-trained"):
        for way in plan.ways:
            for r in plan.rs:
                pair = by_key.get((weights, "merge", r)), by_key.get((weights, way, r))
                if way != "merge" and pair[0] is not None and pair[1] is not None:
                    name = f"merge minus {way}, {weights}"
                    contrasts.append({"contrast": name, "r": r, **difference(pair[1].hits, pair[0].hits)})
    for way in plan.ways:
        for r in plan.rs:
            pair = by_key.get(("training-free", way, r)), by_key.get(("re-trained", way, r))
            if pair[0] is not None and pair[1] is not None:
                name = f"re-trained minus training-free, {way}"
                contrasts.append({"contrast": name, "r": r, **difference(pair[0].hits, pair[1].hits)})
    settings = {"images": plan.images, "epochs": plan.epochs, "seeds": list(plan.seeds), "test_images": baseline.hits.shape[1]}
    return {"settings": settings, "accuracies": accuracies, "contrasts": contrasts}


def _interval(entry: dict[str, float]) -> str:
    return f"{entry['value']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}]"


def markdown(result: dict[str, Any]) -> str:
    """The two tables as text."""
    s = result["settings"]
    lines = [
        f"{len(s['seeds'])} seeds, {s['epochs']:g} epoch(s) of {s['images']:,} images, all {s['test_images']:,} test images.",
        "",
        "| weights | reduction | r | ratio | top-1 % | Δ points over the baseline [95 %] |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["accuracies"]:
        delta = _interval(row["delta"]) if "delta" in row else ""
        lines.append(
            f"| {row['weights']} | {row['way']} | {row['r']} | {row['reduction_ratio']:.2f} | {row['top1']:.2f} | {delta} |"
        )
    lines += ["", "| contrast | r | points [95 %] |", "| --- | ---: | ---: |"]
    lines += [f"| {row['contrast']} | {row['r']} | {_interval(row)} |" for row in result["contrasts"]]
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy lost against the reduction ratio: a colour per way, dashed before and solid after re-training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, way in enumerate(WAYS):
        for weights, style in (("training-free", "--"), ("re-trained", "-")):
            rows = [row for row in result["accuracies"] if (row["weights"], row["way"]) == (weights, way)]
            if not rows:
                continue
            values = [row["delta"]["value"] for row in rows]
            half = [row["delta"]["high"] - row["delta"]["value"] for row in rows]
            ratios = [row["reduction_ratio"] for row in rows]
            axes.errorbar(
                ratios, values, half, label=f"{way}, {weights}", ls=style, color=f"C{index}", marker="o", ms=3, capsize=2
            )
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(xlabel="reduction ratio", ylabel="top-1, points over the baseline")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _plan() -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for weights, logs and predictions, to go on from")
    parser.add_argument("--out", type=Path, required=True, help="folder for findings.json, findings.md and curves.png")
    parser.add_argument("--data", type=Path, help="Fashion-MNIST folder (default: Debian's dataset-fashion-mnist)")
    parser.add_argument("--rs", default=",".join(map(str, RS)), help="tokens removed per merge")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--ways", default="all", help="all, or a list with ; between of: " + "; ".join(WAYS))
    parser.add_argument("--images", type=int, default=30_000, help="training images an epoch, of 60,000 (default: 30000)")
    parser.add_argument("--epochs", type=float, default=1.0)
    given = parser.parse_args()
    ways = tuple(WAYS) if given.ways == "all" else tuple(way.strip() for way in given.ways.split(";"))
    unknown = [way for way in ways if way not in WAYS]
    if unknown or given.seeds < 1 or given.images < 1:
        parser.error(f"unknown way {unknown[0]!r}" if unknown else "--seeds and --images must be positive")
    rs = tuple(int(word) for word in given.rs.split(","))
    seeds = tuple(range(given.seeds))
    return Plan(given.work, given.data, rs, seeds, ways, given.images, given.epochs), given.out


def main() -> None:
    """Train, evaluate, write."""
    plan, out = _plan()
    cells = train_all(plan)
    result = {**findings(plan, list(rows(plan))), "cells": cells}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "findings.json", json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    write_atomic(out / "findings.md", text)
    draw(result, out / "curves.png")
    print(text)


if __name__ == "__main__":
    main()
