"""The curves of a figure: one per device and model, over one or several runs, in one look for all figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.figures.labels import Name, short
from rmeeto_bench.report.figures.style import COLOURS, LINES, MARKERS, STYLES
from rmeeto_bench.report.groups import by_model

MANY = 16  # curves; more are drawn thin, and only the outermost have a name


@dataclass(frozen=True)
class Line:
    """One curve: a device and a model of a run."""

    device: str  # name of the device
    model: str  # name of the model
    arms: tuple[Arm, ...]  # by ascending r
    suffix: str = ""  # the run in brackets, where two curves would have one name

    @property
    def name(self) -> str:
        """All that tells this curve apart."""
        return f"{self.device}, {self.model}{self.suffix}"


def lines_of(records: Sequence[RunRecord]) -> list[Line]:
    """All curves of these runs; where two would have one name, the run tells them apart."""
    found = [
        (record, Line(record.device(device).name, model, tuple(arms)))
        for record in records
        for device, model, arms in by_model(record)
    ]
    counts = Counter(line.name for _, line in found)
    return [
        Line(line.device, line.model, line.arms, f" ({record.run_id})" if counts[line.name] > 1 else "")
        for record, line in found
    ]


def names_of(lines: Sequence[Line], *, width: int) -> tuple[str, list[str]]:
    """(what all curves have in common, what tells each of them apart), the latter on lines of `width` characters."""
    devices, models = {line.device for line in lines}, {line.model for line in lines}
    common = [next(iter(names)) for names in (devices, models) if len(names) == 1]
    if {arm.what for line in lines for arm in line.arms} == {"train"}:
        common.append("in training")
    own = []
    for line in lines:
        parts = [line.device] if len(devices) > 1 else []
        parts += [line.model] if len(models) > 1 else []
        own.append(short(", ".join(parts) + line.suffix, width))
    return ", ".join(common), own


def blank(style: str) -> tuple[Figure, Axes]:
    """An empty figure in this style."""
    chosen = STYLES[style]
    figure = Figure(figsize=(chosen.width, chosen.height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3, linewidth=0.5)
    return figure, axes


def log_rates(axes: Axes, which: Literal["x", "y"] = "x") -> None:
    """Rates on a logarithmic axis, with ticks that a reader can name."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set(minor_locator=LogLocator(subs=(2, 5)))
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(which="both", axis=which, length=3.5, pad=3)


def look(index: int, curves: int = 1) -> dict[str, Any]:
    """Colour, marker and line style of a curve: any one of the three tells it apart, so grey print does too."""
    if curves > MANY:
        return {"color": COLOURS[0], "linewidth": 0.6, "alpha": 0.4}
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "linewidth": 1.2,
        "markersize": 5,
    }


def bars(estimates: Sequence[Estimate]) -> list[list[float]] | None:
    """Lengths of error bars below and above; None where no value has an interval."""
    below = [max(0.0, e.value - e.low) if e.low is not None else 0.0 for e in estimates]
    above = [max(0.0, e.high - e.value) if e.high is not None else 0.0 for e in estimates]
    return [below, above] if any(below + above) else None


@dataclass(frozen=True)
class Curve:
    """The points of one curve, ready to be drawn."""

    xs: Sequence[Estimate]  # in the unit of the x axis
    ys: Sequence[Estimate]  # in the unit of the y axis
    name: str  # label of the curve; "": none
    hollow: Sequence[bool] = ()  # of each point, whether its marker is empty; (): all are filled


def draw(axes: Axes, curves: Sequence[Curve], *, end: int) -> list[Name]:
    """All curves with their intervals; returns the names for their points number `end` (0 the first, -1 the last)."""
    names = []
    for index, curve in enumerate(curves):
        xs, ys, looks = [x.value for x in curve.xs], [y.value for y in curve.ys], look(index, len(curves))
        if len(curves) <= MANY:
            whiskers: dict[str, Any] = {"fmt": "none", "ecolor": looks["color"], "elinewidth": 0.8, "capsize": 2, "alpha": 0.7}
            axes.errorbar(xs, ys, xerr=bars(curve.xs), yerr=bars(curve.ys), **whiskers)
        axes.plot(xs, ys, **looks)
        empty = [i for i, hollow in enumerate(curve.hollow) if hollow]
        axes.plot(
            [xs[i] for i in empty], [ys[i] for i in empty], **{**looks, "linestyle": "", "markerfacecolor": "white", "alpha": 1}
        )
        top = curve.ys[end].high or ys[end]  # a leader from above ends at the bar, not in it
        names.append(Name(curve.name, xs[end], top if end == 0 else ys[end], looks["color"]))
    if len(curves) > MANY:
        names.sort(key=lambda name: (name.x, name.y))
        names = [names[0], names[-1]]
    return names
