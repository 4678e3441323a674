"""The roofline with the arms on it: what the hardware allows at each ratio, and what was reached.

Left: arithmetic rate over DRAM traffic, with the roofs of bandwidth and tensor cores and the ceilings that exponentials
and fp32 lanes set for this model. Right: the same limits as images/s over the reduction ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rmeeto_bench.profiles import GpuProfile
from rmeeto_bench.report.figures.curves import bars
from rmeeto_bench.report.figures.style import COLOURS, STYLES, drawing

if TYPE_CHECKING:
    from rmeeto_bench.cost.attainable import RooflineArm


def _roofs(axes: Axes, profile: GpuProfile, arms: Sequence[RooflineArm]) -> None:
    low, high = min(arm.intensity for arm in arms) / 4, max(arm.intensity for arm in arms) * 6
    peak, slope = profile.fp16_tflops, profile.bandwidth_gbs / 1000
    ridge = peak / slope
    xs = [low, min(max(ridge, low), high), high]
    axes.plot(xs, [min(peak, slope * x) for x in xs], "-", color="black", linewidth=1.4)
    _label(axes, f"tensor cores {peak:g} TFLOP/s", high, peak, "right")
    axes.annotate(f"{profile.bandwidth_gbs:g} GB/s", (low, slope * low), (12, -2), textcoords="offset points", fontsize="small")
    below = [(unit, ceiling) for unit, ceiling in arms[0].ceilings.items() if ceiling < peak]
    for (unit, ceiling), line, place in zip(below, ("--", ":"), ("right", "center"), strict=False):
        axes.plot([low, high], [ceiling, ceiling], line, color="0.35", linewidth=1)
        _label(axes, unit, high if place == "right" else (low * high) ** 0.5, ceiling, place)


def _label(axes: Axes, text: str, x: float, y: float, place: str) -> None:
    """Above a roof, where it stays clear of its neighbours' labels."""
    axes.annotate(text, (x, y), (-2, 3), textcoords="offset points", ha=place, fontsize="small")


def _arms(axes: Axes, profile: GpuProfile, arms: Sequence[RooflineArm]) -> None:
    limits = [arm.limit * arm.giga_operations / 1000 for arm in arms]
    axes.plot(
        [arm.intensity for arm in arms], limits, "o", color=COLOURS[0], markerfacecolor="white", markersize=5, label="limit"
    )
    reached = [arm for arm in arms if arm.achieved]
    rates = [arm.achieved.value * arm.giga_operations / 1000 for arm in reached if arm.achieved]
    if reached:
        axes.plot([arm.intensity for arm in reached], rates, "s", color=COLOURS[1], markersize=5, label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(0.5 * min((*limits, *rates)), axes.get_ylim()[0]), 2 * profile.fp16_tflops)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations per DRAM byte")
    axes.set_ylabel("10¹² operations/s")
    axes.legend(fontsize="small", frameon=False, loc="lower right")


def _rates(axes: Axes, arms: Sequence[RooflineArm]) -> None:
    ratios = [arm.reduction_ratio for arm in arms]
    axes.plot(ratios, [arm.limit for arm in arms], "-o", color=COLOURS[0], markerfacecolor="white", markersize=5, label="limit")
    axes.plot(ratios, [arm.tuned for arm in arms], "--^", color=COLOURS[2], markersize=4, label="tuned kernels (estimate)")
    reached = [arm for arm in arms if arm.achieved]
    values = [arm.achieved for arm in reached if arm.achieved]
    if reached:
        xs, ys = [arm.reduction_ratio for arm in reached], [value.value for value in values]
        axes.errorbar(xs, ys, yerr=bars(values), fmt="-.s", color=COLOURS[1], markersize=5, linewidth=1.2, label="measured")
        for arm, x, y in zip(reached, xs, ys, strict=True):
            axes.annotate(f"{y / arm.limit:.0%}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize="small")
    axes.set_ylim(0, None)
    axes.margins(0.1)
    axes.set_xlabel("reduction ratio")
    axes.set_ylabel("images/s")
    axes.legend(fontsize="small", frameon=False, loc="upper left")


def roofline(title: str, profile: GpuProfile, arms: Sequence[RooflineArm], style: str = "screen") -> Figure:
    """Draw at least one arm; labels at measured points are shares of the limit."""
    chosen = STYLES[style]
    beside = style == "screen"
    size = (1.55 * chosen.width, chosen.height) if beside else (chosen.width, 1.9 * chosen.height)
    with drawing(style):
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2) if beside else figure.subplots(2, 1)
        _roofs(left, profile, arms)
        _arms(left, profile, arms)
        _rates(right, arms)
        for axes in (left, right):
            axes.grid(alpha=0.3, linewidth=0.5)
        figure.suptitle(title, fontsize="medium")
    return figure
