"""How fast is a training step on the CPU, and what does it keep in memory? The native kernels against plain torch, in one run.

    python benchmarks/train_step.py --r 11 --out results/train_step/NAME.json

`chunked` and `reference` are the same model on plain torch; `reference` scans token by token, as mamba-ssm does where its
CUDA kernels don't run. Steps of all alternate, so that a busy machine slows all; the results are ratios. Seconds are those
of the process (all its threads), which other people's work changes least; images/s are by the clock. Memory is what autograd
holds from the forward for the backward pass, parameters left out, and is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import rmeeto_bench as rb
from rmeeto_bench.files import write_atomic
from rmeeto_bench.measure.devices.device import cpu_name
from rmeeto_bench.measure.statistics import paired_speedup
from rmeeto_bench.retrain.distill import training_loss
from rmeeto_bench.retrain.optimiser import Stepper
from rmeeto_bench.retrain.presets import preset

BASELINES = ("chunked", "reference")


def held(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward keeps for the backward: every storage once, those of parameters not."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # alive, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def stepper(model_name: str, r: int, backend: str, batch: int) -> tuple[Callable[[], None], int]:
    """One optimizer step of the `nano` recipe on random images, as a function, and the bytes it holds per image."""
    torch.manual_seed(0)
    model, settings = rb.create_model(model_name, r=r, backend=backend).train(), preset("nano").optimisation
    c = model.config
    images, labels = torch.randn(batch, c.in_chans, c.img_size, c.img_size), torch.randint(0, c.num_classes, (batch,))
    steps = Stepper(model, settings, torch.device("cpu"))
    steps.set_rate(1e-4)

    def loss() -> Tensor:
        return training_loss(model(images), labels, 0.05, None, 0.0)

    def step() -> None:
        steps.backward(loss(), 0)
        steps.step()

    step()  # warm: kernels are built and tested in the first forward
    return step, held(model, loss) // batch


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vim_nano")
    parser.add_argument("--r", type=int, default=11)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    built = {name: stepper(given.model, given.r, name, given.batch_size) for name in ("native", *BASELINES)}
    arms, memory = {name: step for name, (step, _) in built.items()}, {name: held for name, (_, held) in built.items()}
    used: dict[str, list[float]] = {name: [] for name in arms}
    clock: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(given.rounds):
        for name, step in arms.items():
            began, processor = time.perf_counter(), time.process_time()
            step()
            used[name].append(time.process_time() - processor)
            clock[name].append(time.perf_counter() - began)
    ratios = {name: paired_speedup(used[name], used["native"]) for name in BASELINES}
    result = {
        "model": given.model,
        "r": given.r,
        "batch_size": given.batch_size,
        "threads": torch.get_num_threads(),
        "processor": cpu_name(),
        "torch": torch.__version__,
        "native_times_as_fast_as": {name: {"value": r.value, "low": r.low, "high": r.high} for name, r in ratios.items()},
        "held_bytes_per_image": memory,
        "processor_seconds_per_step": {name: min(values) for name, values in used.items()},
        "images_per_second": {name: given.batch_size / min(values) for name, values in clock.items()},
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        write_atomic(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
