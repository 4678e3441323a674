"""Unwrap the tensors of one model: training scripts wrap them in a dozen ways, some beside an average."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rmeeto_bench.errors import CheckpointError

ANCHOR = "patch_embed.proj.weight"  # every model here has it, so what stands before it is the wrapping
USUAL = ("model", "module", "state_dict", "model_state_dict", "net", "network")
PREFIXES = ("module.", "backbone.", "encoder.", "_orig_mod.", "model.")  # of files without the anchor
AVERAGES = {"ema", "swa", "averaged", "avg", "polyak", "teacher"}
COUNTS = ("n_averaged",)  # beside the weights in an AveragedModel of torch
IGNORED = ("distill_head.",)  # VideoMamba's self-distillation leaves it in the file
DEPTH = 5


@dataclass(frozen=True)
class Found:
    """One set of weights in a file."""

    # Names of the dictionaries that were followed, and the prefix of the keys last: ("model", "module.").
    wrapping: tuple[str, ...]
    # Tensors by the model's own names.
    state: dict[str, Tensor]
    # Whether the file says by a name that they are a moving average (EMA, SWA, a teacher).
    averaged: bool

    @property
    def name(self) -> str:
        """The wrapping for a message."""
        return (" > ".join(self.wrapping) or "the tensors outside of any dictionary")[:80]


def unwrap(value: Any, path: Path, *, ema: bool) -> tuple[Found, Found | None]:
    """(the weights to load, the averaged ones that are in the file too but were not asked for).

    Raises `CheckpointError` if there are none, if averages are asked for and missing, or if several models are in the file.
    """
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a dictionary of tensors; it is no checkpoint")
    everything = [item for names, tensors in _dictionaries(value, ()) for item in _models(names, tensors, path)]
    if not everything:
        everything = [_without_anchor(value, path)]
    averages = [item for item in everything if item.averaged]
    plain = [item for item in everything if not item.averaged]
    if ema:
        if not averages:
            raise CheckpointError(f"{path} has no EMA weights; load it without --ema")
        return _only(averages, path), None
    if not plain:
        return _only(averages, path), None
    return _only(plain, path), averages[0] if averages else None


def _only(found: list[Found], path: Path) -> Found:
    if len(found) > 1:
        names = " and ".join(item.name for item in found[:3])
        raise CheckpointError(f"{path} holds {len(found)} models ({names}); save the one that is meant in a file of its own")
    return found[0]


def _dictionaries(value: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every dictionary in which an anchor stands, with the names that lead to it."""
    if any(isinstance(key, str) and key.endswith(ANCHOR) and isinstance(item, Tensor) for key, item in value.items()):
        yield names, value
    if len(names) < DEPTH:
        for key, item in value.items():
            if isinstance(item, Mapping) and "optim" not in str(key):
                yield from _dictionaries(item, (*names, str(key)))


def _models(names: tuple[str, ...], value: Mapping[Any, Any], path: Path) -> Iterator[Found]:
    """The models of one dictionary: as many as there are prefixes before the anchor."""
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    prefixes = [key.removesuffix(ANCHOR) for key in tensors if key.endswith(ANCHOR)]
    counted = any(key.rpartition(".")[2] in COUNTS for key in tensors)
    for prefix in prefixes:
        inner = [other for other in prefixes if other != prefix and other.startswith(prefix)]
        own: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            outside = not key.startswith(prefix)
            if outside and (len(prefixes) > 1 or key.rpartition(".")[2] in COUNTS):
                continue
            if any(key.startswith(other) for other in inner):
                continue
            name = key if outside else key.removeprefix(prefix)  # a head beside its backbone
            if name in own:
                raise CheckpointError(f"{path} holds {name[:80]} twice, so two models; save the one that is meant by itself")
            if name in COUNTS or name.startswith(IGNORED):
                continue
            own[name] = tensor
        words = {word for name in (*names, prefix) for word in re.split(r"[._\-]", name.lower())}
        yield Found((*names, prefix) if prefix else names, own, bool(words & AVERAGES) or (counted and len(prefixes) == 1))


def _without_anchor(value: Mapping[Any, Any], path: Path) -> Found:
    """Another family's tensors, for the message about them: usual names are followed, usual prefixes stripped."""
    names: list[str] = []
    while len(names) < DEPTH:
        name = next((name for name in USUAL if isinstance(value.get(name), Mapping)), None)
        if name is None:
            break
        value = value[name]
        names.append(name)
    state: dict[str, Tensor] = {}
    for key, tensor in value.items():
        name = str(key)
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if isinstance(tensor, Tensor) and not name.startswith(IGNORED):
            state[name] = tensor
    if not state:
        raise CheckpointError(f"{path} holds no tensors; it is no checkpoint of a model")
    return Found(tuple(names), state, averaged=False)
