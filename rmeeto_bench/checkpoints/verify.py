"""Is this file a whole, safe checkpoint of that model, and where does it come from?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rmeeto_bench.checkpoints.family import describe, num_classes
from rmeeto_bench.checkpoints.fit import check_state
from rmeeto_bench.checkpoints.reader import Provenance, read_checkpoint

REDUCTION_ARGS = ("num_prune", "merge_interval", "if_order", "if_prune", "distance", "merge_mode", "choose", "compare")


@dataclass(frozen=True)
class Verified:
    """What a check of a checkpoint found; `settings` are the reduction's, as far as the file tells."""

    provenance: Provenance
    family: str
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    classes: int | None
    settings: dict[str, str]


def verify(path: Path, model: nn.Module | None, *, ema: bool = False) -> Verified:
    """Read a checkpoint without running code in it; every tensor finite, and (with `model`) every name and shape as the
    model wants them. Raises `CheckpointError` in one line for the first thing that is wrong."""
    checkpoint = read_checkpoint(path, ema=ema)
    state, provenance = checkpoint.state_dict, checkpoint.provenance
    if model is not None:
        check_state(state, model, path)
    told = {name: str(provenance.args[name]) for name in REDUCTION_ARGS if name in provenance.args}
    return Verified(
        provenance,
        describe(state),
        len(state),
        sum(tensor.numel() for tensor in state.values()),
        dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())),
        num_classes(state),
        {**told, **provenance.metadata},
    )
