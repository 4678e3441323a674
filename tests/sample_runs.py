"""Records as a run would leave them, for tests of reports."""

from __future__ import annotations

import numpy as np
import torch

from rmeeto_bench import published as reference
from rmeeto_bench.bench.store.predictions import Chunk, Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cost.flops import published_gflops
from rmeeto_bench.data.image_set import Normalisation, TensorSet
from rmeeto_bench.models.sizes import config
from rmeeto_bench.records.run import Arm, DeviceRecord, Estimate, RunRecord
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import PAPER_RATIOS, reduction_ratio, token_counts

TOP1 = {0: 80.5, 5: 79.9, 10: 79.6, 11: 79.3, 15: 78.3, 20: 76.5}


def arms(
    device: str, model: str, rates: dict[int, float], *, accuracy: bool = True, weights: str = "retrained", **extra: object
) -> tuple[Arm, ...]:
    found = []
    for r, rate in rates.items():
        counts = token_counts(ReductionConfig(r=r))
        speedup = rate / rates[0]
        found.append(
            Arm(
                device=device,
                arm=f"{model}/r{r}",
                model=model,
                r=r,
                ratio_requested=next((ratio for ratio, known in PAPER_RATIOS.items() if known == r), 0.0),
                reduction_ratio=reduction_ratio(counts, 197),
                token_counts=counts,
                final_tokens=counts[-1],
                precision="fp16",
                backend="chunked",
                batch_size=128,
                weights="baseline" if r == 0 else weights,
                checkpoint=f"{model}_r{r}.safetensors",
                checkpoint_sha256="0" * 64,
                gflops={"paper": published_gflops(config(model), ReductionConfig(r=r))},
                images_per_second=Estimate(rate, rate * 0.995, rate * 1.005),
                speedup=Estimate(1.0) if r == 0 else Estimate(speedup, speedup * 0.998, speedup * 1.002),
                top1=Estimate(TOP1[r], TOP1[r] - 0.35, TOP1[r] + 0.35) if accuracy else None,
                delta_top1=Estimate(TOP1[r] - 80.5, TOP1[r] - 80.7, TOP1[r] - 80.3) if accuracy and r else None,
                n_images=50_000 if accuracy else 0,
                rounds=48,
                sessions=6,
                **extra,  # type: ignore[arg-type]
            )
        )
    return tuple(found)


def record(devices: tuple[DeviceRecord, ...], all_arms: tuple[Arm, ...], **changes: object) -> RunRecord:
    values = {
        "run_id": "20260101-000000-test-abcd",
        "created_utc": "2026-01-01T00:00:00Z",
        "status": "complete",
        "tool_version": "0.1.0",
        "argv": ("--gpus", "all"),
        "plan": {"preset": "default"},
        "environment": {"python": "3.12", "packages": {"torch": "2.11"}},
        "devices": devices,
        "arms": all_arms,
        "data": {arm.model: {"name": "val", "inputs": "real images", "images": arm.n_images} for arm in all_arms},
    }
    return RunRecord(**{**values, **changes})  # type: ignore[arg-type]


def cpu_run() -> RunRecord:
    return record(
        (DeviceRecord("cpu", "Some CPU", "cpu", "cpu"),), arms("cpu", "vim_nano", {0: 100.0, 5: 97.0, 10: 130.0, 20: 170.0})
    )


def two_gpus() -> RunRecord:
    """One of the paper's six, with the published values beside ours, and one the paper does not have."""
    known = arms("cuda:a", "vim_small", {0: 1480.0, 5: 1372.0, 11: 1690.0, 20: 2200.0})
    published = tuple(Arm(**{**arm.__dict__, "paper": reference.throughput("vim_small", "RTX 4090", arm.r)}) for arm in known)
    other = arms("cuda:b", "vim_small", {0: 5000.0, 5: 5600.0, 11: 6900.0, 20: 9800.0})
    devices = (
        DeviceRecord("cuda:a", "NVIDIA GeForce RTX 4090", "cuda", "rtx4090"),
        DeviceRecord("cuda:b", "NVIDIA H200", "cuda", "h200"),
    )
    return record(devices, published + other)


def store_answers(store: Store, device: str, answers: dict[str, np.ndarray], labels: np.ndarray, *, pixels: int = 0) -> None:
    """The best classes of each arm on images with these labels, written as an accuracy pass writes them: in two batches."""
    count, classes = len(labels), tuple(str(i) for i in range(10))
    shades = torch.full((count, 1, 1, 1), pixels, dtype=torch.uint8)
    data = TensorSet("made", shades, torch.from_numpy(labels.astype(np.int64)), classes, Normalisation((0.0,), (1.0,)))
    kept = Predictions(store, device)
    kept.begin(data, {arm: {"batch_size": count} for arm in answers})
    for batch in data.batches(max(1, count // 2)):
        part = slice(batch.start, batch.start + len(batch.labels))
        best = {arm: np.stack([first[part]] * 5, 1).astype(np.int16) for arm, first in answers.items()}
        sure = {arm: np.full(len(batch.labels), 0.5, np.float16) for arm in answers}
        kept.add(data, Chunk(batch.start, batch.labels.numpy(), best, sure, digests=batch.digests))
