"""A filled-in table as Markdown, LaTeX, CSV and HTML: published value, ours, deviation with interval, and match level."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rmeeto_bench.report.paper.item import PaperLine, PaperTable
from rmeeto_bench.report.plain import csv_cell, tex
from rmeeto_bench.report.plain import markdown as as_markdown
from rmeeto_bench.report.run.tables import DASH

VALUES = ("published", "ours", "deviation", "match")
DIGITS = {"%": 2, "pp": 2, "pp/epoch": 2, "G": 3, "x": 3, "fraction": 4, "min": 1, "im/s": 0}
MATCH_COLUMN = r"p{0.25\linewidth}"  # the only long text
PRINTED = {"%": 1, "pp": 1, "G": 2, "x": 2, "fraction": 2}  # decimals the paper prints at least
IN_POINTS = ("%", "pp", "pp/epoch")


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text  # no -0.00


def _published(value: float, unit: str) -> str:
    """As the paper prints it: what a number has, but no fewer decimals than its column."""
    decimals = len(f"{value:g}".partition(".")[2])
    return f"{value:.{max(decimals, PRINTED.get(unit, 0))}f}"


def _with_interval(values: tuple[float, float | None, float | None], digits: int, *, sign: bool = False) -> str:
    value, low, high = values
    text = _number(value, digits, sign=sign)
    if low is None or high is None:
        return text
    return f"{text} [{_number(low, digits, sign=sign)}, {_number(high, digits, sign=sign)}]"


def deviation(line: PaperLine) -> tuple[float, float | None, float | None] | None:
    """Ours minus published in points for percentages, in percent of the published value for all else; None where the two
    cannot be compared."""
    ours, published = line.ours, line.published
    if ours is None or published is None or not ours.comparable:
        return None
    if line.unit in IN_POINTS:
        low, high = (None if bound is None else bound - published for bound in (ours.low, ours.high))
        return ours.value - published, low, high
    if published == 0:
        return None
    low, high = (None if bound is None else 100 * (bound / published - 1) for bound in (ours.low, ours.high))
    return 100 * (ours.value / published - 1), low, high


def cells(line: PaperLine) -> tuple[str, ...]:
    """The text of a line's cells: its keys, then `VALUES`."""
    digits = DIGITS[line.unit]
    published = DASH if line.published is None else _published(line.published, line.unit)
    if line.ours is None:
        return (*line.keys, published, DASH, DASH, DASH)
    ours = _with_interval((line.ours.value, line.ours.low, line.ours.high), digits)
    apart = deviation(line)
    if apart is None:
        text = DASH
    elif line.unit in IN_POINTS:
        text = _with_interval(apart, 2, sign=True)
    else:
        text = _with_interval(apart, 1, sign=True) + " %"
    return (*line.keys, published, ours, text, line.ours.match)


def markdown(table: PaperTable) -> str:
    """GitHub Markdown."""
    columns = (*table.columns, *VALUES)
    lines = [f"**{as_markdown(table.caption)}**", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "|".join(" ---: " if name in VALUES[:3] else " --- " for name in columns) + "|")
    for line in table.lines:
        lines.append("| " + " | ".join(map(as_markdown, cells(line))) + " |")
    notes = (table.state, *table.footnotes, *table.left_out)
    return "\n".join([*lines, "", *(f"- {as_markdown(note)}" for note in notes)]) + "\n"


def latex(table: PaperTable) -> str:
    """For `\\input`: booktabs rules in a longtable, for some tables are longer than a page; needs both packages."""
    columns = (*table.columns, *VALUES)
    align = "l" * len(table.columns) + "rrr" + MATCH_COLUMN
    head = " & ".join(tex(name) for name in columns) + r" \\"
    lines = [
        r"\begingroup\footnotesize",
        rf"\begin{{longtable}}{{{align}}}",
        rf"\caption*{{{tex(table.caption)}}} \\",
        r"\toprule",
        head,
        r"\midrule",
    ]
    lines += [r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    # Braces keep a cell that opens with a bracket from being read as the optional argument of the row before it.
    lines += [" & ".join(f"{{{tex(cell)}}}" for cell in cells(line)) + r" \\" for line in table.lines]
    lines += [r"\end{longtable}", r"\endgroup", r"\begin{itemize}"]
    lines += [rf"\item {{\footnotesize {tex(note)}}}" for note in (table.state, *table.footnotes, *table.left_out)]
    return "\n".join([*lines, r"\end{itemize}"]) + "\n"


def csv_text(table: PaperTable) -> str:
    """One row per number, unrounded, for programs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("published", "unit", "ours", "ours_low", "ours_high", "deviation", "deviation_low", "deviation_high", "match")
    writer.writerow(("item", *table.columns, *names))
    for line in table.lines:
        ours = line.ours
        known = ("", "", "", "") if ours is None else (ours.value, ours.low, ours.high, ours.match)
        apart = deviation(line) or ("", "", "")
        row = (table.item.name, *line.keys, line.published, line.unit, *known[:3], *apart, known[3])
        writer.writerow([csv_cell(value) for value in row])
    return buffer.getvalue()


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("rmeeto_bench.report.paper", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(name)


def html(table: PaperTable) -> str:
    """A self-contained page."""
    return _template("table.html").render(
        table=table, columns=(*table.columns, *VALUES), rows=[cells(line) for line in table.lines], numeric=VALUES[:3]
    )


def index(entries: Sequence[tuple[str, str, str, tuple[str, ...]]]) -> str:
    """The page that leads to the others: (label, title, state, file names) of each item."""
    return _template("index.html").render(entries=entries)
