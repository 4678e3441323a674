"""What people read of an evaluation: a table of ratios, a few sentences, and the classes that pay for merging."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.accuracy import AccuracyRecord, ArmAccuracy, ClassChange, DataSummary, to_json
from rmeeto_bench.records.run import Estimate
from rmeeto_bench.report.figures.style import COLOURS, drawing, render
from rmeeto_bench.report.fitted import NEVER, Cell, Column, fitted
from rmeeto_bench.report.origins import origin_notes
from rmeeto_bench.report.plain import csv_cell
from rmeeto_bench.report.run.tables import DASH, interval

LEVEL = 0.05
IMPORTANCE = ("Δ points", "weights", "ratio", "p", "top-5 %", "same %", "ECE")  # a narrow terminal loses the last first
SHOWN_CLASSES = 15
SHOWN_PROBLEMS = 5


def _p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _cells(arm: ArmAccuracy) -> dict[str, Cell]:
    """Every column that a row can show: its value and its interval."""
    delta = arm.delta_top1
    return {
        "r": (str(arm.r), ""),
        "ratio": (f"{arm.reduction_ratio:.2f}", ""),
        "top-1 %": (f"{arm.top1.value:.2f}", interval(arm.top1, 2)),
        "top-5 %": (f"{arm.top5.value:.2f}", ""),
        "Δ points": (DASH if delta is None else f"{delta.value:+.2f}", interval(delta, 2, sign="+")),
        "p": (_p_text(arm.p_holm), ""),
        "same %": (DASH if arm.agreement is None else f"{arm.agreement:.1f}", ""),
        "ECE": (f"{arm.calibration_error:.1f}", ""),
        "weights": (arm.weights, ""),
    }


def rich_tables(record: AccuracyRecord, width: int = 160) -> list[Table]:
    """One table per model, one row per arm; p is McNemar's mid-p after Holm, `same %` the agreement with r = 0."""
    tables = []
    for model in dict.fromkeys(arm.model for arm in record.arms):
        rows = [_cells(arm) for arm in record.arms if arm.model == model]
        columns = [Column(name, _importance(name), left=name == "weights") for name in rows[0]]
        tables.append(fitted(model, columns, rows, width)[0])
    return tables


def _importance(name: str) -> int:
    return NEVER if name in ("r", "top-1 %") else IMPORTANCE.index(name)


def _difference(arm: ArmAccuracy) -> str:
    delta = arm.delta_top1
    if delta is None or arm.p_holm is None:
        return ""
    if arm.p_holm < LEVEL:
        return f"{arm.arm}: {delta.value:+.2f} points, a difference (p = {_p_text(arm.p_holm)} after Holm)"
    alone = (
        ""
        if delta.low is None or delta.high is None
        else f"; its interval alone is [{delta.low:+.2f}, {delta.high:+.2f}] points"
    )
    return f"{arm.arm}: {delta.value:+.2f} points, no change is proven (p = {_p_text(arm.p_holm)} after Holm){alone}"


def _data_lines(summary: DataSummary) -> list[str]:
    lines = [f"{summary.evaluated} of {summary.images} images of {summary.name}, each decoded once for all ratios"]
    kinds = Counter((problem.skipped, problem.reason.split(":")[0].split(",")[0]) for problem in summary.problems)
    for (skipped, reason), count in kinds.items():
        same = [
            problem.path
            for problem in summary.problems
            if (problem.skipped, problem.reason.split(":")[0].split(",")[0]) == (skipped, reason)
        ]
        shown = ", ".join(same[:SHOWN_PROBLEMS]) + (f" and {count - SHOWN_PROBLEMS} more" if count > SHOWN_PROBLEMS else "")
        lines.append(f"{'left out' if skipped else 'read with care'}, {count}: {reason}: {shown}")
    return lines


def sentences(record: AccuracyRecord) -> list[str]:
    """What the numbers say, in words: images, what was left out, differences, hints."""
    lines = [line for summary in record.data.values() for line in _data_lines(summary)]
    for model in dict.fromkeys(arm.model for arm in record.arms):
        lines += origin_notes([arm for arm in record.arms if arm.model == model])
    lines += [text for arm in record.arms if (text := _difference(arm))]
    return lines + [f"warning: {hint}" for hint in record.hints]


def to_csv(record: AccuracyRecord) -> str:
    """One line per arm, intervals in columns of their own."""
    return _csv([_flat(asdict(arm)) for arm in record.arms])


def classes_csv(record: AccuracyRecord) -> str:
    """One line per class and ratio, those that lose most first within a ratio."""
    return _csv([_flat(asdict(change)) for change in record.classes])


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and set(value) == {"value", "low", "high"}:
            flat |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            flat[name] = value
    return flat


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _half(estimate: Estimate) -> tuple[float, float]:
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return estimate.value - low, high - estimate.value


def losing_classes(record: AccuracyRecord, names: dict[int, str] | None = None) -> Figure:
    """The classes that lose most at the largest ratio, shrunk towards the mean change, as extremes among many are luck."""
    arms = [arm for arm in record.arms if arm.delta_top1 is not None]
    with drawing("screen") as chosen:
        figure = Figure(figsize=(chosen.width, 4.8), layout="constrained")
        axes = figure.subplots()
        if arms:
            arm = max(arms, key=lambda found: found.reduction_ratio)
            changes: list[ClassChange] = [change for change in record.classes if change.arm == arm.arm][:SHOWN_CLASSES]
            labels = [(names or {}).get(change.label, str(change.label)) for change in changes]
            errors = [list(side) for side in zip(*(_half(change.shrunk) for change in changes), strict=True)]
            places = range(len(changes))
            values = [change.shrunk.value for change in changes]
            axes.barh(places, values, xerr=errors, color=COLOURS[0], ecolor="0.4", error_kw={"linewidth": 0.8})
            axes.set_yticks(places, labels)
            axes.invert_yaxis()
            axes.axvline(0, color="0.5", linewidth=0.8)
            if arm.delta_top1 is not None:
                axes.axvline(arm.delta_top1.value, color=COLOURS[1], linewidth=0.8, linestyle="--", label="all classes")
                axes.legend(frameon=False, fontsize="small")
            axes.set_xlabel("change in top-1, shrunk towards the mean of all classes (points, 95 % intervals)")
            axes.set_title(f"{arm.arm}: the classes that lose most", fontsize="medium")
    return figure


def write_all(record: AccuracyRecord, folder: Path) -> None:
    """Write accuracy.json, accuracy.csv, classes.csv and classes.png, .pdf, .svg into the folder."""
    write_atomic(folder / "accuracy.json", to_json(record))
    write_atomic(folder / "accuracy.csv", to_csv(record))
    if record.classes:
        write_atomic(folder / "classes.csv", classes_csv(record))
        for kind in ("png", "pdf", "svg"):
            write_atomic(folder / f"classes.{kind}", render(losing_classes(record), kind))
