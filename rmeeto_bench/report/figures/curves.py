"""The curves of a figure: one per device and model, over one or several runs, in one look for all figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.figures.style import COLOURS, LINES, MARKERS, STYLES
from rmeeto_bench.report.groups import groups


@dataclass(frozen=True)
class Line:
    """One curve: a device and a model of a run, its arms by ascending r."""

    device: str
    model: str
    arms: tuple[Arm, ...]
    suffix: str = ""

    @property
    def name(self) -> str:
        """For a legend."""
        return f"{self.device}, {self.model}{self.suffix}"


def lines_of(records: Sequence[RunRecord]) -> list[Line]:
    """All curves of these runs; where two would have one name, the run tells them apart."""
    found = [
        (record, Line(record.device(device).name, model, tuple(arms)))
        for record in records
        for device, model, arms in groups(record)
    ]
    counts = Counter(line.name for _, line in found)
    return [
        Line(line.device, line.model, line.arms, f" ({record.run_id})" if counts[line.name] > 1 else "")
        for record, line in found
    ]


def blank(style: str, *, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes, side by side on a screen (at most three a row), two a row in a column of a paper."""
    chosen = STYLES[style]
    columns = min(panels, 3 if style == "screen" else 2)
    rows = -(-panels // columns)
    width = chosen.width * (1 if style == "paper" or columns == 1 else 0.85 * columns)
    height = chosen.height * rows * (0.85 if columns > 1 and style == "screen" else 1.0 if columns == 1 else 0.8)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_visible(False)
    for used in axes[:panels]:
        used.grid(alpha=0.3, linewidth=0.5)
    return figure, axes[:panels]


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of a curve: any one of the three tells it apart, so grey print does too."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "linewidth": 1.2,
        "markersize": 5,
    }


def bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of error bars below and above; none where there is no interval."""
    below = [max(0.0, e.value - e.low) if e.low is not None else 0.0 for e in estimates]
    above = [max(0.0, e.high - e.value) if e.high is not None else 0.0 for e in estimates]
    return [below, above]


def curve(axes: Axes, xs: Sequence[float], ys: Sequence[Estimate], index: int, label: str, *, hollow: bool = False) -> None:
    """A curve with its intervals."""
    values, looks = [y.value for y in ys], look(index)
    face = "white" if hollow else looks["color"]
    axes.errorbar(xs, values, yerr=bars(ys), capsize=2, elinewidth=0.8, label=label, markerfacecolor=face, **looks)


def legend(axes: Axes, style: str, **where: Any) -> None:
    """Small and without a frame; below the axes in a column of a paper, which is too narrow for long names inside."""
    if style == "paper":
        figure, handles = axes.figure, axes.get_legend_handles_labels()
        width, height = figure.get_size_inches()  # type: ignore[union-attr]
        figure.set_size_inches(width, height + 0.16 * len(handles[1]))  # type: ignore[union-attr]
        figure.legend(*handles, fontsize="small", frameon=False, loc="outside lower left", labelspacing=0.25)
    else:
        axes.legend(fontsize="small", frameon=False, **where)
