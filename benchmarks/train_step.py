"""How fast is a training step on the CPU? The native kernels against the same model on plain torch, in one run.

    python benchmarks/train_step.py --r 11 --out results/train_step/NAME.json

Steps of both backends alternate, so that a busy machine slows both; the result is a ratio. Seconds are those of the process
(all its threads), which other people's work changes least; images/s are by the clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import rmeeto_bench as rb
from rmeeto_bench.measure.statistics import paired_speedup
from rmeeto_bench.records import write_atomic
from rmeeto_bench.retrain.distill import training_loss
from rmeeto_bench.retrain.optimiser import Stepper
from rmeeto_bench.retrain.presets import preset


def stepper(model_name: str, r: int, backend: str, batch: int) -> Callable[[], None]:
    """One optimizer step of the `nano` recipe on random images, as a function."""
    torch.manual_seed(0)
    model, settings = rb.create_model(model_name, r=r, backend=backend).train(), preset("nano").optimisation
    c = model.config
    images, labels = torch.randn(batch, c.in_chans, c.img_size, c.img_size), torch.randint(0, c.num_classes, (batch,))
    steps = Stepper(model, settings, torch.device("cpu"))
    steps.set_rate(1e-4)

    def step() -> None:
        steps.backward(training_loss(model(images), labels, 0.05, None, 0.0), 0)
        steps.step()

    return step


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vim_nano")
    parser.add_argument("--r", type=int, default=11)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    arms = {name: stepper(given.model, given.r, name, given.batch_size) for name in ("native", "chunked")}
    for step in arms.values():
        step()
    used: dict[str, list[float]] = {name: [] for name in arms}
    clock: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(given.rounds):
        for name, step in arms.items():
            began, processor = time.perf_counter(), time.process_time()
            step()
            used[name].append(time.process_time() - processor)
            clock[name].append(time.perf_counter() - began)
    ratio = paired_speedup(used["chunked"], used["native"])
    result = {
        "model": given.model,
        "r": given.r,
        "batch_size": given.batch_size,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "native_over_chunked": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        "processor_seconds_per_step": {name: min(values) for name, values in used.items()},
        "images_per_second": {name: given.batch_size / min(values) for name, values in clock.items()},
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        write_atomic(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
