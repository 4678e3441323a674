"""All items by name, and filling one in."""

from __future__ import annotations

import math

from rmeeto_bench.errors import UsageError
from rmeeto_bench.published import PaperRow, rows
from rmeeto_bench.report.paper.inconsistencies import BY_TABLE
from rmeeto_bench.report.paper.item import PaperItem, PaperLine, PaperTable
from rmeeto_bench.report.paper.sources import Sources
from rmeeto_bench.report.paper.tables import ablations, accuracy, comparison, schedule, throughput, training

FIGURES = {"fig1b": "Pruning, merging and re-training of Vim-S", "fig4": "Images/s against accuracy on six GPUs"}
METRICS = {
    "top1": "top-1",
    "delta_top1": "difference of top-1",
    "abs_delta_top1": "size of the difference",
    "top1_drop": "drop of top-1",
    "top1_pm": "spread of top-1",
    "flops": "FLOPs",
    "flops_saved": "FLOPs saved",
    "wall_time": "wall time",
    "throughput": "throughput",
    "speedup": "speed-up",
    "reduction_ratio": "reduction ratio",
    "delta_vs_trainingfree_76.3": "gain over no training (76.3)",
    "marginal_benefit_per_epoch": "gain per epoch",
}
REGIMES = {"retrained-trainingfree": "re-trained minus training-free"}


def _order(name: str) -> tuple[int, str]:
    return int(name.rstrip("ab")), name


TABLES: dict[str, PaperItem] = {
    item.name: item
    for item in sorted(
        (item for family in (accuracy, ablations, comparison, training, schedule, throughput) for item in family.ITEMS),
        key=lambda item: _order(item.name),
    )
}


def chosen(names: list[str]) -> tuple[list[PaperItem], list[str]]:
    """(tables, figures) of these names, `12` or `table12` or `fig4`. Raises `UsageError` for any other."""
    tables, figures = [], []
    for name in names:
        short = name.lower().removeprefix("table").removeprefix("tab").lstrip("_")
        if short in FIGURES:
            figures.append(short)
        elif short in TABLES:
            tables.append(TABLES[short])
        else:
            raise UsageError(f"the paper has no item {name!r}; `rmeeto-bench paper --list` names them")
    return tables, figures


def _keys(row: PaperRow) -> dict[str, str]:
    """Heading -> text, for everything that identifies a number."""
    return {
        "model": row.model,
        "method": row.method,
        "regime": REGIMES.get(row.regime, row.regime),
        "r": row.r,
        row.setting_name.replace("_", " "): row.setting_value,
        "number": METRICS[row.metric] + (f" ({row.unit})" if row.unit != "fraction" else ""),
    }


def _varying(published: tuple[PaperRow, ...]) -> tuple[dict[str, None], dict[str, str]]:
    """Headings whose text differs between rows, and the text of the others."""
    keys = [_keys(row) for row in published]
    headings = dict.fromkeys(heading for row in keys for heading in row if heading)
    values = {heading: {row.get(heading, "") for row in keys} for heading in headings}
    common = {heading: texts.pop() for heading, texts in values.items() if len(texts) == 1}
    return {heading: None for heading in headings if heading not in common or heading == "number"}, common


def fill(item: PaperItem, sources: Sources) -> PaperTable:
    """The published numbers of a table with ours beside them."""
    published = item.rows or tuple(row for row in rows() if row.table == item.name)
    columns, common = _varying(published)
    lines = []
    for row in published:
        keys = _keys(row)
        value = None if math.isnan(row.value) else row.value
        ours = item.find(row, sources) or training.retrained(row, sources)
        lines.append(PaperLine(tuple(keys.get(name, "") for name in columns), value, row.unit, ours))
    about = ", ".join(f"{heading} {text}" for heading, text in common.items() if text and heading != "number")
    caption = f"{item.label}. {item.title}" + (f" ({about})" if about else "") + "."
    return PaperTable(item, caption, tuple(columns), tuple(lines), BY_TABLE.get(item.name, ()), sources.left_out)
