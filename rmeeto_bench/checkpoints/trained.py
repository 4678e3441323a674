"""The reduction that weights were trained with, by their file: ours in the header, upstream's in its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import Ablation, ReductionConfig, VitOptions

LONGEST = 1 << 14  # characters of a header's entry
LONGEST_NAMES = 1 << 22  # characters of all names of classes
MODES = {"merge": "sum", "sum": "sum", "mean": "mean", "amax": "amax", "amin": "amin"}  # upstream's name: ours


def written(reduction: ReductionConfig) -> str:
    """A reduction as text for a header."""
    return json.dumps(asdict(reduction))


def read_reduction(text: str) -> ReductionConfig:
    """What `written` wrote. Raises `ValueError`, `TypeError`, `AttributeError`, `RecursionError` or `UsageError`."""
    told = json.loads(text[:LONGEST])
    parts: dict[str, Any] = {
        "ablation": _typed(Ablation(**told.pop("ablation", {}))),
        "vit": _typed(_vit(told.pop("vit", {}))),
    }
    return _typed(ReductionConfig(**told, **parts))


def ways(reduction: ReductionConfig) -> list[str]:
    """What is not the method's own about a reduction, a word or two for each setting; r is not among them."""
    words = ["prune"] * reduction.prune + ["unordered"] * (not reduction.ordered)
    for part in (reduction, reduction.ablation, reduction.vit):
        for known in fields(part):
            value = getattr(part, known.name)
            named = known.name in ("r", "prune", "ordered") or is_dataclass(value)
            if not named and value != getattr(type(part)(), known.name):
                words.append(f"{known.name} {value}")
    return words


def in_words(reduction: ReductionConfig) -> str:
    """`r = 11, prune, distance l1`."""
    return ", ".join([f"r = {reduction.r}", *ways(reduction)])


def _typed(part: Any) -> Any:
    """The settings, if each has the type of its default. Raises `TypeError`: a file may say anything."""
    for known in fields(part):
        value, default = getattr(part, known.name), getattr(type(part)(), known.name)
        allowed: tuple[type, ...] = (type(default),)
        if isinstance(default, float) or known.name == "final_tokens":
            allowed += (int,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise TypeError(known.name)
    return part


def trained_r(args: Mapping[str, Any], metadata: Mapping[str, str]) -> int | None:
    """The r that a file names, or None."""
    given = metadata.get("r", args.get("num_prune"))
    return int(given) if isinstance(given, (int, str)) and re.fullmatch("[0-9]{1,6}", str(given)) else None


def trained_reduction(args: Mapping[str, Any], metadata: Mapping[str, str]) -> ReductionConfig | None:
    """The whole reduction that a file names, or None where it does not, or not in terms known here."""
    try:
        if "reduction" in metadata:
            return read_reduction(metadata["reduction"])
        r = trained_r(args, metadata)
        if r is None or "num_prune" not in args:
            return None
        names = {
            "merge_interval": "interval",
            "if_order": "ordered",
            "if_prune": "prune",
            "distance": "distance",
            "metric": "metric",
        }
        known: dict[str, Any] = {own: args[name] for name, own in names.items() if args.get(name) is not None}
        if args.get("if_merge_odd"):
            known["placement"] = "odd"
        if args.get("merge_mode") is not None:
            known["mode"] = MODES.get(str(args["merge_mode"]), args["merge_mode"])
        return _typed(ReductionConfig(r=r, **known))
    except (ValueError, TypeError, AttributeError, RecursionError, UsageError):
        return None


def _vit(told: dict[str, Any]) -> VitOptions:
    return VitOptions(**{**told, "per_block": tuple(int(r) for r in told.get("per_block", ()))})


def class_names(metadata: Mapping[str, str], count: int | None) -> tuple[str, ...]:
    """The names of the classes in the order of the head, if the file has one for each of them."""
    try:
        told = json.loads(metadata.get("classes", "[]")[:LONGEST_NAMES])
    except (ValueError, RecursionError):
        return ()
    plain = isinstance(told, list) and all(isinstance(name, str) for name in told)
    return tuple(told) if plain and len(set(told)) == len(told) == count else ()
