"""Whether the program whose accuracy was measured is the program that was timed: both answer the same probe images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from rmeeto_bench.bench.store.store import Probe

if TYPE_CHECKING:
    from torch import Tensor  # the summary of a run, which compares probes, needs no torch

AGREEMENT = 0.999  # share of probe images that must get the same class; fewer is another program
DECIMALS = 2  # logits are rounded to this before hashing: equal programs differ by less, other weights by far more
SAME = ("precision", "batch_size", "backend", "checkpoint_sha256", "averaged", "reduction", "token_counts")


def probe(forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Probe:
    """Put the resident batches through the program as it is timed."""
    import torch

    with torch.inference_mode():
        logits = torch.cat([forward(batch).float().cpu() for batch in batches])  # [n, classes]
    rounded = (logits.round(decimals=DECIMALS) + 0.0).numpy()  # + 0.0 makes -0.0 and 0.0 one
    return Probe(tuple(logits.argmax(1).tolist()), hashlib.sha256(rounded.tobytes()).hexdigest())


def agreement(first: Probe, second: Probe) -> float:
    """Share of images with the same best class; 0 for different numbers of images."""
    if len(first.top1) != len(second.top1) or not first.top1:
        return 0.0
    return float(np.mean(np.asarray(first.top1) == np.asarray(second.top1)))
