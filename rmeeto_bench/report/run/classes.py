"""The classes that pay for merging: a table of all, and a figure of those that lose most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
from matplotlib.figure import Figure

from rmeeto_bench.records.run import ClassChange, RunRecord
from rmeeto_bench.report.figures.curves import bars
from rmeeto_bench.report.figures.style import COLOURS, drawing
from rmeeto_bench.report.plain import csv_cell

SHOWN = 15  # classes of the figure


def classes_csv(changes: Sequence[ClassChange]) -> str:
    """One line per class and ratio, those that lose most first within a ratio; an estimate has its ends in `_low`, `_high`."""
    table = pd.json_normalize([asdict(change) for change in changes], sep="_")
    table.columns = table.columns.str.removesuffix("_value")
    return str(table.map(csv_cell).to_csv(index=False))


def losing_classes(record: RunRecord, changes: Sequence[ClassChange], style: str = "screen") -> Figure:
    """The classes that lose most at the largest ratio, shrunk towards the mean change, as extremes among many are luck."""
    known = {change.arm for change in changes}
    arm = max((arm for arm in record.arms if arm.arm in known), key=lambda found: found.reduction_ratio)
    shown = [change for change in changes if change.arm == arm.arm][:SHOWN]
    with drawing(style) as chosen:
        figure = Figure(figsize=(chosen.width, 4.8), layout="constrained")
        axes = figure.subplots()
        shrunk, places = [change.shrunk for change in shown], range(len(shown))
        values = [change.value for change in shrunk]
        axes.barh(places, values, xerr=bars(shrunk), color=COLOURS[0], ecolor="0.4", error_kw={"linewidth": 0.8})
        axes.set_yticks(places, [str(change.label) for change in shown])
        axes.set_ylabel("number of the class")
        axes.invert_yaxis()
        axes.axvline(0, color="0.5", linewidth=0.8)
        if arm.delta_top1 is not None and arm.is_over_own:
            axes.axvline(arm.delta_top1.value, color=COLOURS[1], linewidth=0.8, linestyle="--", label="all classes")
            axes.legend(frameon=False, fontsize="small")
        axes.set_xlabel("change in top-1, shrunk towards the mean of all classes (points, 95 % intervals)")
        axes.set_title(f"{arm.arm}: the classes that lose most", fontsize="medium")
    return figure
