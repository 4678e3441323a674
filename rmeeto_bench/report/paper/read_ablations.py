"""Our side of the paper's ablation tables: results of `rmeeto-bench ablate --out`, found by the setting of a row.

`ablate` switches settings on one set of weights, without training each of them: only training-free numbers of the paper have
one of ours beside them, and only where those weights were not trained with merging on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.records.run import Estimate

LARGEST = 16 << 20  # bytes of a file of ablations

FOLDS = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin"}  # name in Table 17 -> mode

# (setting of the paper's table, value, method) -> (study, variant)
_SHUFFLED = {
    ("shuffle_ratio", ratio, method): ("shuffle", f"{ours}, {ratio} shuffled")
    for ratio in ("0.1", "0.3", "0.5", "0.7")
    for method, ours in (("merging", "merge"), ("pruning", "prune"))
}
VARIANTS = {
    **_SHUFFLED,
    ("feature_row", "1", "merging"): ("metric", "X"),
    **{("distance", name, "merging"): ("distance", name) for name in ("cosine", "l1", "l2")},
    **{("merge_mode", theirs, "merging"): ("mode", ours) for theirs, ours in FOLDS.items()},
    ("grouping", "odd-even", "merging"): ("grouping", "odd-even"),
    ("grouping", "front-behind", "merging"): ("grouping", "front-behind"),
    ("grouping", "random", "merging"): ("grouping", "random halves"),
    ("variant", "default", "merging"): ("random-r", "closest"),
    ("variant", "random-r", "merging"): ("random-r", "random r"),
    ("variant", "random pair", "merging"): ("random-pair", "random pair"),
}


@dataclass(frozen=True)
class Ablated:
    """The result of one variant of one study on one model."""

    model: str  # name of the model
    r: int  # tokens that each merge removes
    study: str  # name of the study
    label: str  # name of the variant
    top1: Estimate  # percent
    spread: float | None  # standard deviation over seeds, in points; None for one run
    data: str  # name of the data, and the number of images


def _rows(path: Path) -> list[Ablated]:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} is larger than any file of ablations; it is not read")
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        settings = value["settings"]
        data = f"{settings['data']}, {int(settings['images'])} images"
        rows = [
            Ablated(
                model=str(settings["model"]),
                r=int(settings["r"]),
                study=str(row["study"]),
                label=str(row["label"]),
                top1=Estimate(**{name: float(row["top1"][name]) for name in ("value", "low", "high")}),
                spread=None if row["spread"] is None else float(row["spread"]),
                data=data,
            )
            for row in value["rows"]
            if row["top1"] is not None
        ]
        return rows if settings["weights_r"] == 0 else []  # re-trained, or nobody knows: not the paper's training-free rows
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no file of `rmeeto-bench ablate --out` ({type(error).__name__}: {error})") from error


def load_ablations(paths: Sequence[Path]) -> tuple[Ablated, ...]:
    """The rows of files, or of all .json files in folders, that ran on weights trained without merging. Raises `DataError`."""
    rows: list[Ablated] = []
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path} holds no .json of `rmeeto-bench ablate --out`")
        rows += [row for file in files for row in _rows(file)]
    return tuple(rows)
