"""The paper's own numbers (arXiv 2412.12496), as tidy rows, and the few that are looked up by key."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from typing import Any

from rmeeto_bench.files import shipped

PAPER_NAMES = {"vim_tiny": "Vim-Ti", "vim_small": "Vim-S", "vim_base": "Vim-B"}


@dataclass(frozen=True)
class PaperRow:
    """One published number. Texts are empty where nothing applies."""

    table: str  # as printed, 1a to 23
    model: str  # as printed, as in Vim-S
    method: str  # as in merging or pruning
    regime: str  # training of the weights, as in training-free or re-trained 3ep
    reduction_ratio: str  # as printed
    r: str  # tokens that each merge removes
    setting_name: str  # what the table varies beside model and r, as in shuffle_ratio
    setting_value: str  # its value in this row
    metric: str  # as in top1, flops, throughput
    value: float  # in `unit`
    unit: str  # %, pp, G, min, im/s, x, ...
    note: str  # what is odd about the printed number


def _row(row: dict[str, Any]) -> PaperRow:
    return PaperRow(**{**row, "value": float(row["value"])})


@cache
def rows() -> tuple[PaperRow, ...]:
    """All published numbers, in the order of the tables."""
    with (shipped("paper") / "all_tables.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_row(row) for row in csv.DictReader(file))


def throughput(model: str, paper_column: str, r: int) -> dict[str, float] | None:
    """Images/s and speed-up of Table 12 (fp16, batch 128) for a GPU by the paper's name, or None if not in it."""
    found = {
        row.metric: row.value
        for row in rows()
        if row.table == "12"
        and row.model == PAPER_NAMES.get(model)
        and row.r == str(r)
        and row.setting_value == paper_column
        and row.setting_value
    }
    if "throughput" not in found:
        return None
    return {"images_per_second": found["throughput"], "speedup": found["speedup"]}


def training_minutes(model: str) -> str:
    """What Table 3 says of three epochs of re-training on ImageNet-1k, in words; empty for a model that is not in it."""
    name = PAPER_NAMES.get(model)
    found = {row.setting_value: row.value for row in rows() if (row.table, row.model) == ("3", name)}
    return ", ".join(f"{minutes:g} min on {hardware}" for hardware, minutes in found.items())


def top1(model: str, r: int) -> float | None:
    """Top-1 in percent of Table 12 (re-trained; the baseline at r = 0), or None if not in it."""
    for row in rows():
        if (row.table, row.model, row.metric, row.r) == ("12", PAPER_NAMES.get(model), "top1", str(r)):
            return row.value
    return None
