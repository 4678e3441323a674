"""A plan's arms, resolved: which file each of them loads, how that was trained, and so with which reduction it is evaluated.

The parent reads every file once, before any worker starts. Workers receive the answers, and stop if they find other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.plan.plan import BenchPlan, Cell, cells
from rmeeto_bench.checkpoints.trained import read_reduction, written
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import reduction_ratio


@dataclass(frozen=True)
class Weights:
    """What an arm is loaded with; the default is random weights."""

    # The file, or None.
    path: Path | None = None
    # Hex digest of the file as the parent read it.
    sha256: str | None = None
    # Whether the averaged weights in it are taken.
    ema: bool = False
    # What a table says: baseline, retrained, training-free, trained at r=N, unknown origin, or random.
    label: str = "random"
    # What says so: catalogue, metadata, arguments or file name; unknown, or nothing for random weights.
    known_by: str = ""


@dataclass(frozen=True)
class Resolved:
    """One model of a plan: what would otherwise be asked again by every process."""

    # Name of the model.
    model: str
    # Its arms, with the whole reduction of each.
    cells: tuple[Cell, ...]
    # The weights of each arm by its name.
    weights: Mapping[str, Weights]
    # Classes of the head.
    num_classes: int
    # Their names in the order of the head, if a file says so.
    class_names: tuple[str, ...] = ()
    # What the user should know about the weights: one sentence each.
    notes: tuple[str, ...] = ()
    # What makes the model where it is not ours: timm:NAME, or the user's MODULE:FUNCTION.
    program: str = ""
    # One input, without the batch.
    input_shape: tuple[int, ...] = ()
    # How its images are prepared, as `data.preprocessing.declared` reads it; None: as its shape says.
    preprocessing: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a job's line of JSON."""
        told = {
            name: asdict(weights) | {"path": None if weights.path is None else str(weights.path)}
            for name, weights in self.weights.items()
        }
        arms = [asdict(cell) | {"reduction": written(cell.reduction)} for cell in self.cells]
        return {**asdict(self), "cells": arms, "weights": told}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Resolved:
        """What `as_dict` made, after its journey."""
        arms = tuple(Cell(**{**cell, "reduction": read_reduction(cell["reduction"])}) for cell in value["cells"])
        weights = {
            name: Weights(**{**told, "path": None if told["path"] is None else Path(told["path"])})
            for name, told in value["weights"].items()
        }
        tuples = {name: tuple(value[name]) for name in ("class_names", "notes", "input_shape")}
        return cls(**{**value, **tuples, "cells": arms, "weights": weights})


def without_weights(plan: BenchPlan, model: str) -> Resolved:
    """A model on simulated devices: nothing is loaded."""
    arms = cells(plan, model)
    sized = config(model)
    return Resolved(model, arms, {cell.name: Weights() for cell in arms}, sized.num_classes, input_shape=sized.input_shape)


def resolve(plan: BenchPlan, model: str) -> Resolved:
    """Choose and read the files of a model's arms; those that have to be fetched are fetched.

    Raises `CheckpointError` in one line for a file that is missing, damaged, unsafe, of another model, or of other classes
    than the files of the other arms.
    """
    from rmeeto_bench.bench.plan.weights import choose  # needs torch, as does the next
    from rmeeto_bench.checkpoints.origin import origin_of

    arms: list[Cell] = []
    weights: dict[str, Weights] = {}
    evaluated: dict[tuple[Path, bool], list[ReductionConfig]] = {}
    read, notes = _Files(model), list[str]()
    for cell in cells(plan, model):
        chosen = choose(cell, plan.checkpoints)
        if chosen.path is None:
            arms.append(cell)
            weights[cell.name] = Weights()
            continue
        notes += [f"{chosen.path.name} is used, {other} beside it is not" for other in chosen.passed_over]
        ema = plan.ema or chosen.ema
        provenance = read(chosen.path, ema=ema)
        origin = origin_of(provenance, chosen.published)
        arms.append(_with(cell, origin.obeyed(cell.reduction)))
        evaluated.setdefault((chosen.path, ema), []).append(arms[-1].reduction)
        weights[cell.name] = Weights(chosen.path, provenance.sha256, ema, origin.label(cell.r), origin.known_by)
    for (path, ema), reductions in evaluated.items():
        provenance = read(path, ema=ema)
        origin = origin_of(provenance)
        notes += [*provenance.notes, *origin.differences(path.name, reductions)]
    known = read.num_classes, read.class_names, tuple(dict.fromkeys(notes))
    return Resolved(model, tuple(arms), weights, *known, input_shape=config(model).input_shape)


def _with(cell: Cell, reduction: ReductionConfig) -> Cell:
    """The cell with a whole reduction, and the ratio that this one reaches."""
    sized = config(cell.model)
    return replace(cell, reduction=reduction, reduction_ratio=reduction_ratio(sized.token_counts(reduction), sized.num_tokens))


class _Files:
    """The files of one model, each read once; all have heads for the same classes."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._found: dict[tuple[Path, bool], Any] = {}
        self._first: Any = None
        self._named: Any = None

    def __call__(self, path: Path, *, ema: bool) -> Any:
        """Where the weights come from. Raises `CheckpointError`."""
        if (path, ema) not in self._found:
            self._found[path, ema] = self._read(path, ema=ema)
        return self._found[path, ema]

    def _read(self, path: Path, *, ema: bool) -> Any:
        import torch

        from rmeeto_bench.checkpoints.fit import fitted
        from rmeeto_bench.checkpoints.reader import read_checkpoint
        from rmeeto_bench.models.zoo import build

        checkpoint = read_checkpoint(path, ema=ema)
        found = checkpoint.provenance
        sizes = {} if found.num_classes is None else {"num_classes": found.num_classes}
        with torch.device("meta"):
            model = build(config(self._model, **sizes), ReductionConfig())
        _, notes = fitted(checkpoint.state_dict, model, path)
        found = replace(found, notes=(*found.notes, *notes))
        self._first = self._first or found
        self._named = self._named or (found if found.class_names else None)
        if found.num_classes != self._first.num_classes:
            raise CheckpointError(
                f"{path.name} has {found.num_classes} classes, {self._first.path.name} has {self._first.num_classes}: "
                "they are not of one data set; evaluate them in runs of their own"
            )
        if found.class_names and found.class_names != self._named.class_names:
            raise CheckpointError(
                f"{path.name} and {self._named.path.name} number their classes differently; evaluate them in runs of their own"
            )
        return found

    @property
    def num_classes(self) -> int:
        """Of the heads, or of the model where nothing is loaded."""
        return config(self._model).num_classes if self._first is None else self._first.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the head, if any file has them."""
        return () if self._named is None else self._named.class_names
