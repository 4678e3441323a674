"""Ablation results as Markdown, CSV and JSON, from plain rows (dictionaries with the fields of `ablate.ablations.Row`)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rmeeto_bench.report.plain import csv_cell
from rmeeto_bench.report.plain import markdown as as_markdown

Rows = Sequence[Mapping[str, Any]]


def _interval(estimate: Mapping[str, Any] | None, *, sign: bool) -> str:
    if estimate is None:
        return ""
    plus = "+" if sign else ""
    text = f"{estimate['value']:{plus}.2f}"
    return text if estimate["low"] is None else f"{text} [{estimate['low']:{plus}.2f}, {estimate['high']:{plus}.2f}]"


def _cells(row: Mapping[str, Any]) -> list[str]:
    spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
    versus = f" over {row['versus']}" if row["versus"] else ""
    return [
        row["label"],
        f"{row['reduction_ratio']:.2f}",
        _interval(row["top1"], sign=False) + spread,
        _interval(row["delta"], sign=True) + versus,
        row["finding"],
        row["verdict"],
    ]


def verdicts(rows: Rows) -> str:
    """How many of the paper's findings hold, in a sentence."""
    counts = {word: sum(row["verdict"] == word for row in rows) for word in ("holds", "does not hold", "undecided")}
    return (
        f"Of {sum(counts.values())} comparisons with a finding in the paper, {counts['holds']} hold, "
        f"{counts['does not hold']} do not, {counts['undecided']} are undecided at this number of images."
    )


def markdown(rows: Rows, heading: str) -> str:
    """One table per study. ± is the standard deviation over seeds; brackets are 95 % intervals."""
    lines = [f"# {as_markdown(heading)}", "", verdicts(rows), ""]
    lines += ["Brackets: 95 % intervals, Δ paired by image. ±: standard deviation over seeds. Paper: its finding on Vim.", ""]
    lines += ["All variants ran on the same weights; a table marked re-trained is the paper's after training each one.", ""]
    for name, group in groupby(rows, key=lambda row: row["study"]):
        own = list(group)
        lines += [f"## {name} ({own[0]['source']})", "", "| variant | ratio | top-1 % | Δ points | paper | here |"]
        lines += ["| --- | ---: | ---: | ---: | --- | --- |"]
        lines += ["| " + " | ".join(map(as_markdown, _cells(row))) + " |" for row in own] + [""]
    return "\n".join(lines)


def comma_separated(rows: Rows) -> str:
    """Flat rows, estimates in three columns."""
    file = io.StringIO()
    flat = [
        {
            key if end == "value" else f"{key}_{end}": value[end] if isinstance(value, Mapping) else value
            for key, value in row.items()
            for end in (("value", "low", "high") if key in ("top1", "delta") and value is not None else ("value",))
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in flat)
    return file.getvalue()


def to_json(rows: Rows, settings: Mapping[str, Any]) -> str:
    """Everything, with what it was run with."""
    return json.dumps({"settings": dict(settings), "rows": [dict(row) for row in rows]}, indent=1) + "\n"
