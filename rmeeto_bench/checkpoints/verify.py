"""Is this file a whole, safe checkpoint of that model, and where does it come from?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rmeeto_bench.checkpoints.family import describe, num_classes
from rmeeto_bench.checkpoints.fit import fitted
from rmeeto_bench.checkpoints.reader import Provenance, read_checkpoint

REDUCTION_ARGS = ("num_prune", "merge_interval", "if_order", "if_prune", "distance", "merge_mode", "choose", "compare")


@dataclass(frozen=True)
class Verified:
    """What a check of a checkpoint found."""

    provenance: Provenance  # where the file comes from
    family: str  # in words, of which kind of model the tensors are
    tensors: int  # how many
    parameters: int  # numbers in all tensors
    dtypes: dict[str, int]  # tensors of each dtype
    classes: int | None  # outputs of the head; None without one
    settings: dict[str, str]  # of the reduction and the training, as far as the file tells


def verify(path: Path, model_for: Callable[[Provenance, int | None], nn.Module | None], *, ema: bool = False) -> Verified:
    """Read a checkpoint without running code in it; every tensor is finite, and every name and shape is as the model wants.

    model_for: makes the model, or None for no such check, from what the file says of itself and its number of classes.
    Raises `CheckpointError` in one line for the first thing that is wrong.
    """
    checkpoint = read_checkpoint(path, ema=ema)
    state, provenance = checkpoint.state_dict, checkpoint.provenance
    model = model_for(provenance, num_classes(state))
    if model is not None:
        fitted(state, model, path)
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
