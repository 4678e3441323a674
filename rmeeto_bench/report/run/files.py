"""All files of a run's folder that people read, drawn from its record."""

from __future__ import annotations

from pathlib import Path

from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.run import Raw, RunRecord
from rmeeto_bench.report.figures.kinds import speed_accuracy
from rmeeto_bench.report.figures.style import write_figure
from rmeeto_bench.report.figures.tokens import has_sizes, tokens
from rmeeto_bench.report.run.classes import classes_csv, losing_classes
from rmeeto_bench.report.run.html import html
from rmeeto_bench.report.run.over_own import speedups_over_own
from rmeeto_bench.report.run.tables import latex, markdown, to_csv


def write_all(record: RunRecord, folder: Path, style: str = "screen", raw: Raw | None = None) -> list[Path]:
    """Write table.csv, .md, .tex, speed_accuracy.png, .pdf, .svg and report.html, of a run with predictions classes.csv, .png,
    .pdf and .svg, of one with a model at several image sizes tokens.png, .pdf and .svg; returns their paths."""
    raw = raw or Raw({})
    texts = {
        "table.csv": to_csv(record),
        "table.md": markdown(record),
        "table.tex": latex(record),
        "report.html": html(record, raw.blocks),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text)
    paths = [folder / name for name in texts] + write_figure(speed_accuracy([record], style), folder / "speed_accuracy", style)
    if has_sizes([record]):
        paths += write_figure(tokens([record], style, speedups_over_own(record, raw.blocks)), folder / "tokens", style)
    if raw.classes:
        write_atomic(folder / "classes.csv", classes_csv(raw.classes))
        paths += [folder / "classes.csv", *write_figure(losing_classes(record, raw.classes, style), folder / "classes", style)]
    return paths
