"""A comparison for people and CI: a terminal table, Markdown, JUnit XML and GitHub's annotations."""

from __future__ import annotations

from xml.etree import ElementTree

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rmeeto_bench.records.comparison import (
    FAIL,
    INCONCLUSIVE,
    MEMORY,
    PASS,
    RATE,
    REFUSED,
    SAME,
    SLOWER,
    SPEEDUP,
    TOP1,
    WORSE,
    Change,
    Comparison,
    share_text,
)
from rmeeto_bench.report.fitted import NEVER, FittedColumn, fitted
from rmeeto_bench.report.plain import markdown as as_markdown

COLUMNS = ("arm", "quantity", "base", "head", "change", "margin", "outcome")
WIDE = 100  # columns of a terminal from which the name of an arm stands on one line
KEPT = ("arm", "change")  # in a terminal of any width
IMPORTANCE = ("quantity", "outcome", "head", "base", "margin")  # a narrow one loses the last first
BAD, UNSURE = (FAIL, SLOWER, WORSE), (INCONCLUSIVE, REFUSED)
LEVELS = {
    "gate": "one-sided bounds over pairs of processes, wrong in at most 5 % over both looks",
    "compare": "95 % intervals of single quantities, judged with Holm's correction",
}
EXCLUDED = {  # what is known where all quantities have this outcome
    PASS: "a loss of twice its margin is excluded for each",
    SAME: "a change above its margin is excluded for each",
}


def value_text(value: float, metric: str) -> str:
    """With the digits and the unit of the quantity."""
    if metric == RATE:
        return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
    return {SPEEDUP: f"{value:.3f}x", TOP1: f"{value:.2f} %", MEMORY: f"{value:.0f} MiB"}[metric]


def margin_text(change: Change) -> str:
    """In the change's unit."""
    return f"{change.margin:g} points" if change.metric == TOP1 else share_text(change.margin)


def cells(change: Change) -> tuple[str, ...]:
    """The row of a change."""
    return (
        change.arm,
        change.metric,
        value_text(change.base, change.metric),
        value_text(change.head, change.metric),
        change.text,
        margin_text(change),
        change.outcome,
    )


def headline(comparison: Comparison) -> str:
    """One sentence: what came out, of how much, and what is excluded."""
    bad = [change for change in comparison.changes if change.outcome in BAD]
    unsure = [change for change in comparison.changes if change.outcome in UNSURE]
    parts = []
    if bad:
        worst = max(bad, key=lambda change: abs(change.change.value) / (change.margin or 1))
        parts.append(f"{worst.metric} of {worst.arm} {worst.text}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""))
    refused = [change for change in unsure if change.outcome == REFUSED]
    if refused:
        parts.append(f"{len(refused)} of {len(comparison.changes)} quantities may not be judged")
    if len(unsure) > len(refused):
        open_ = f"{len(unsure) - len(refused)} of {len(comparison.changes)} quantities"
        parts.append(f"{open_}: a change above the margin is neither shown nor excluded")
    if not parts:
        explained = any(change.detail and change.metric == SPEEDUP for change in comparison.changes)
        alike = not explained and {change.outcome for change in comparison.changes} in ({PASS}, {SAME})
        known = EXCLUDED[comparison.outcome] if alike else "none is shown to be worse"
        parts.append(f"{len(comparison.changes)} quantities: {known}")
    how = ""
    if comparison.kind == "gate":
        how = f"; {comparison.pairs} processes a side" + (" after one extension" if comparison.extended else "")
        how += ", advisory" if comparison.advisory else ""
    return f"{comparison.outcome}: {'; '.join(parts)}{how}"


def table(comparison: Comparison, width: int = 120) -> Group:
    """For a terminal of `width` columns, a table for each device."""
    shown: list[Table | Text] = [Text(f"{comparison.base} (base) against {comparison.head} (head)", "italic")]
    columns = [
        FittedColumn(name, NEVER if name in KEPT else IMPORTANCE.index(name), left=name in ("arm", "quantity", "outcome"))
        for name in COLUMNS
    ]
    devices = list(dict.fromkeys(change.device for change in comparison.changes))
    for device in devices:
        rows = [
            dict(zip(COLUMNS, ((text, "") for text in cells(change)), strict=True))
            for change in comparison.changes
            if change.device == device
        ]
        for row in rows:
            value, bracket, ends = row["change"][0].partition(" [")
            row["change"] = (value, f"[{ends}" if bracket else "")
            row["arm"] = (row["arm"][0].replace("/", "\n/", 1), "") if width < WIDE else row["arm"]
        shown.append(fitted(device if len(devices) > 1 else None, columns, rows, width)[0])
    return Group(*shown)


def markdown(comparison: Comparison) -> str:
    """For a job's summary or a pull request."""
    lines = [f"### rmeeto-bench {comparison.kind}: {as_markdown(headline(comparison))}", ""]
    lines += [f"Base {as_markdown(comparison.base)}, head {as_markdown(comparison.head)}, {LEVELS[comparison.kind]}.", ""]
    for device in dict.fromkeys(change.device for change in comparison.changes):
        lines += [f"**{as_markdown(device)}**", "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|" + "|".join(" --- " if name in ("arm", "quantity", "outcome") else " ---: " for name in COLUMNS) + "|")
        here = [change for change in comparison.changes if change.device == device]
        lines += ["| " + " | ".join(map(as_markdown, cells(change))) + " |" for change in here]
        lines.append("")
    lines += [f"- {as_markdown(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def junit(comparison: Comparison) -> str:
    """One test case per quantity of an arm; inconclusive and refused ones are skipped tests, with the reason."""
    changes = comparison.changes
    counts = {
        "tests": len(changes),
        "failures": sum(change.outcome in BAD for change in changes),
        "skipped": sum(change.outcome in UNSURE for change in changes),
    }
    suite = ElementTree.Element("testsuite", name=f"rmeeto-bench {comparison.kind}", errors="0")
    for name, count in counts.items():
        suite.set(name, str(count))
    for change in changes:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{change.device}.{change.arm}", name=change.metric)
        said = f"{change.text} against a margin of {margin_text(change)}" + (f"; {change.detail}" if change.detail else "")
        if change.outcome in BAD:
            ElementTree.SubElement(case, "failure", message=said, type=change.outcome)
        elif change.outcome in UNSURE:
            ElementTree.SubElement(case, "skipped", message=f"{change.outcome}: {said}")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _command(text: str) -> str:
    """A value of a workflow command, which ends at the end of its line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def github_annotations(comparison: Comparison) -> list[str]:
    """`::error` for what fails, `::warning` for what is inconclusive, one line each."""
    lines = []
    for change in comparison.changes:
        if change.outcome in (*BAD, *UNSURE):
            kind = "error" if change.outcome in BAD else "warning"
            title = _command(f"rmeeto-bench {change.outcome}").replace(",", "%2C").replace(":", "%3A")
            lines.append(f"::{kind} title={title}::{_command(f'{change.device}, {change.arm}: {change.metric} {change.text}')}")
    return lines
