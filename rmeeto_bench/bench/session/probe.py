"""Whether the program whose accuracy was measured is the program that was timed: both answer the same probe images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmeeto_bench.bench.store.store import Probe

AGREEMENT = 0.999  # share of probe images that must get the same class; fewer is another program
DECIMALS = 2  # logits are rounded to this before hashing: equal programs differ by less, other weights by far more
SAME = ("precision", "batch_size", "backend", "checkpoint_sha256", "token_counts")


@torch.inference_mode()
def probe(forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Probe:
    """Put the resident batches through the program as it is timed."""
    logits = torch.cat([forward(batch).float().cpu() for batch in batches])  # [n, classes]
    rounded = (logits.round(decimals=DECIMALS) + 0.0).numpy()  # + 0.0 makes -0.0 and 0.0 one
    return Probe(tuple(logits.argmax(1).tolist()), hashlib.sha256(rounded.tobytes()).hexdigest())


def agreement(first: Probe, second: Probe) -> float:
    """Share of images with the same best class; 0 for different numbers of images."""
    if len(first.top1) != len(second.top1) or not first.top1:
        return 0.0
    return float(np.mean(np.asarray(first.top1) == np.asarray(second.top1)))


def difference(
    timed: tuple[Probe | None, Mapping[str, Any]],
    evaluated: tuple[Probe | None, Mapping[str, Any]],
    predictions: NDArray[np.int16],
) -> str | None:
    """How the timed program differs from the evaluated one, or None if they are the same.

    Each comes as its probe and the facts of its arm; `predictions` [n, 5] are those of the accuracy pass, whose first
    images are the probe images. Bit-equal logits are not asked for: kernels may be chosen anew in each process.
    """
    (first, first_facts), (second, second_facts) = timed, evaluated
    for name in SAME:
        if first_facts.get(name) != second_facts.get(name):
            return f"{name.replace('_', ' ')} {first_facts.get(name)} was timed, {second_facts.get(name)} evaluated"
    if first is None or second is None:
        return "a probe is missing"
    if first.digest != second.digest and agreement(first, second) < AGREEMENT:
        return f"only {100 * agreement(first, second):.1f} % of the probe images get the same class"
    count = min(len(first.top1), len(predictions))
    same = float(np.mean(np.asarray(first.top1[:count]) == predictions[:count, 0])) if count else 1.0
    return None if same >= AGREEMENT else f"only {100 * same:.1f} % of the recorded predictions are those of the timed program"
