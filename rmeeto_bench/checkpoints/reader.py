"""Reading checkpoints of every wrapping in the field: safe, whole, and with what the file says about itself."""

from __future__ import annotations

import argparse
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmeeto_bench.checkpoints.family import num_classes
from rmeeto_bench.checkpoints.fit import fitted
from rmeeto_bench.checkpoints.formats import open_file
from rmeeto_bench.checkpoints.soundness import check_numbers
from rmeeto_bench.checkpoints.trained import class_names, in_words, trained_r, trained_reduction
from rmeeto_bench.checkpoints.wrappings import Found, unwrap
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.reduction.config import ReductionConfig

METADATA_PREFIX = "rmeeto."


@dataclass(frozen=True)
class Provenance:
    """Where weights come from."""

    # The file.
    path: Path
    # Hex digest of the whole file; of an index of shards, the index's own.
    sha256: str
    # safetensors, torch, or sharded.
    format: str
    # Names of the dictionaries and prefixes around the tensors.
    wrapping: tuple[str, ...]
    # r of the (re-)training, if the file says so.
    trained_r: int | None = None
    # The whole reduction of the training, if the file says so.
    reduction: ReductionConfig | None = None
    # Epochs finished, if the file says so.
    epoch: int | None = None
    # The command line of the training, by upstream's names.
    args: Mapping[str, Any] = field(default_factory=dict)
    # Our entries of a safetensors header.
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Classes of the head, if there is one.
    num_classes: int | None = None
    # Their names in the order of the head, if the file says so.
    class_names: tuple[str, ...] = ()
    # Whether these weights are a moving average.
    averaged: bool = False
    # What a user should know about the choice of weights in the file: one sentence each.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """What was read of a file."""

    # Tensors by upstream's names, on the CPU in their stored dtypes.
    state_dict: dict[str, Tensor]
    # Where they come from.
    provenance: Provenance


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _notes(path: Path, chosen: Found, average: Found | None, *, ema: bool) -> tuple[str, ...]:
    """What is said about averaged weights, none if there are none."""
    if average is not None:
        there = f"{path.name} also holds averaged weights ({average.name}), which are not used"
        return (f"{there}; --ema of run, eval and verify takes them",)
    if chosen.averaged and not ema:
        return (f"{path.name} holds averaged weights alone ({chosen.name or 'weights=ema'}); they are used",)
    return ()


def read_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Read a safetensors file, a torch file (zip or legacy, `weights_only` always) or an index of shards, of any wrapping.

    `ema` takes the averaged weights (Vim-B's published accuracy is theirs); without it the ordinary ones are taken, or the
    average where there is nothing else, and `Provenance.notes` say so. Raises `CheckpointError` in one line for whatever is
    missing, damaged, unsafe or no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; give the path of a checkpoint file")
    opened = open_file(path)
    metadata = {
        key.removeprefix(METADATA_PREFIX): text for key, text in opened.metadata.items() if key.startswith(METADATA_PREFIX)
    }
    shipped_average = metadata.get("weights") == "ema"  # retrain --ema writes the average under the model's own names
    chosen, average = unwrap(opened.value, path, ema=ema and not shipped_average)
    check_numbers(chosen.state, path)
    outer = opened.value if isinstance(opened.value, Mapping) else {}
    args = _arguments(outer.get("args"))
    epoch = outer.get("epoch")
    classes = num_classes(chosen.state)
    provenance = Provenance(
        path=path,
        sha256=sha256(path),
        format=opened.format,
        wrapping=chosen.wrapping,
        trained_r=trained_r(args, metadata),
        reduction=trained_reduction(args, metadata),
        epoch=epoch if isinstance(epoch, int) else None,
        args=args,
        metadata=metadata,
        num_classes=classes,
        class_names=class_names(metadata, classes),
        averaged=chosen.averaged or shipped_average,
        notes=_notes(path, chosen, average, ema=ema),
    )
    return Checkpoint(chosen.state, provenance)


def _arguments(args: Any) -> dict[str, Any]:
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return {str(key): value for key, value in args.items()} if isinstance(args, Mapping) else {}


def load_state(model: nn.Module, path: str | Path, *, ema: bool = False) -> Provenance:
    """Load a checkpoint into `model`, every tensor in its place, converted to the model's dtype; returns where it came from.

    Raises `CheckpointError` in one line, naming the mistake (another size, other classes, another family).
    """
    checkpoint = read_checkpoint(path, ema=ema)
    provenance = checkpoint.provenance
    state, notes = fitted(checkpoint.state_dict, model, provenance.path)
    model.load_state_dict(state, strict=True)
    return replace(provenance, notes=(*provenance.notes, *notes))


def load_checkpoint(model: nn.Module, path: str | Path, *, ema: bool = False) -> Provenance:
    """Load a checkpoint into `model` and return where it came from; `ema` takes the averaged weights in the file.

    Warns if the file says that it was trained with another reduction than the model's, and of averaged weights that are not
    used. Raises `CheckpointError` in one line, naming the mistake (another size, other classes, another family).
    """
    provenance = load_state(model, path, ema=ema)
    trained, own = provenance.reduction, getattr(model, "reduction", None)
    notes = list(provenance.notes)
    if trained is not None and isinstance(own, ReductionConfig) and trained.r > 0 and own not in (trained, ReductionConfig()):
        notes.append(f"{provenance.path.name} was trained with {in_words(trained)}; the model has {in_words(own)}")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return provenance
