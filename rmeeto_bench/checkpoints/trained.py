"""With which reduction weights were trained, as their file says it: ours in the header, upstream's in its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import Ablation, ReductionConfig, VitOptions

LONGEST = 1 << 14  # characters of a header's entry
MODES = {"merge": "sum", "sum": "sum", "mean": "mean", "amax": "amax", "amin": "amin"}  # upstream's name: ours


def written(reduction: ReductionConfig) -> str:
    """A reduction as text for a header."""
    return json.dumps(asdict(reduction))


def trained_r(args: Mapping[str, Any], metadata: Mapping[str, str]) -> int | None:
    """The r that a file names, or None."""
    given = metadata.get("r", args.get("num_prune"))
    return int(given) if isinstance(given, (int, str)) and re.fullmatch("[0-9]{1,6}", str(given)) else None


def trained_reduction(args: Mapping[str, Any], metadata: Mapping[str, str]) -> ReductionConfig | None:
    """The whole reduction that a file names, or None where it does not, or not in terms known here."""
    try:
        if "reduction" in metadata:
            told = json.loads(metadata["reduction"][:LONGEST])
            parts: dict[str, Any] = {"ablation": Ablation(**told.pop("ablation", {})), "vit": _vit(told.pop("vit", {}))}
            return ReductionConfig(**told, **parts)
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
        return ReductionConfig(r=r, **known)
    except (ValueError, TypeError, AttributeError, RecursionError, UsageError):
        return None


def _vit(told: dict[str, Any]) -> VitOptions:
    return VitOptions(**{**told, "per_block": tuple(told.get("per_block", ()))})
