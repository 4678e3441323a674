"""The paper's Figures 1b and 4 from its published numbers, with ours over them where there are any."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rmeeto_bench import reference
from rmeeto_bench.report.figure import COLOURS, LINES, MARKERS, STYLES, settings
from rmeeto_bench.report.paper.sources import Sources
from rmeeto_bench.report.paper.throughput import on_gpu

MODEL = "vim_small"
GPUS = ("H100", "RTX 4090", "A100", "V100", "RTX 3090", "A4000")
RS = (0, 5, 10, 11, 15, 20)


def _canvas(style: str, draw: Callable[[Axes], None]) -> Figure:
    chosen = STYLES[style]
    with matplotlib.rc_context(settings(chosen)):
        figure = Figure(figsize=(chosen.width, chosen.height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3, linewidth=0.5)
    return figure


def _ours_on(axes: Axes, sources: Sources, gpu: str, colour: str) -> int:
    """Our points of one kind of GPU, filled stars with intervals; returns how many."""
    shown = 0
    for r in RS:
        both = (stored.arm for stored in on_gpu(sources, MODEL, r, gpu) if stored.arm.images_per_second and stored.arm.top1)
        arm = next(both, None)
        if arm is None or arm.images_per_second is None or arm.top1 is None:
            continue
        speed, top1 = arm.images_per_second, arm.top1
        spread = [[top1.value - (top1.low or top1.value)], [(top1.high or top1.value) - top1.value]]
        label = "ours" if not shown else None
        axes.errorbar([speed.value], [top1.value], yerr=spread, fmt="*", color=colour, markersize=9, label=label, zorder=3)
        shown += 1
    return shown


def fig4(sources: Sources, style: str = "screen") -> Figure:
    """Images/s against top-1 of Vim-S at r = 0 ... 20 on six GPUs; stars are ours."""

    def draw(axes: Axes) -> None:
        for index, gpu in enumerate(GPUS):
            points = [(reference.throughput(MODEL, gpu, r), reference.top1(MODEL, r)) for r in RS]
            known = [(speed["images_per_second"], top1) for speed, top1 in points if speed and top1 is not None]
            colour, marker, line = COLOURS[index], MARKERS[index], LINES[index % len(LINES)]
            xs, ys = [x for x, _ in known], [y for _, y in known]
            axes.plot(
                xs, ys, line, color=colour, marker=marker, markerfacecolor="white", markersize=5, linewidth=1.2, label=gpu
            )
            _ours_on(axes, sources, gpu, colour)
        axes.set_xscale("log")
        axes.set_xticks([400, 700, 1000, 1500, 2500])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("images/s (fp16, log scale)")
        axes.set_ylabel("top-1 (%)")
        handles, names = axes.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize="small", frameon=False, ncols=2, loc="lower left")

    return _canvas(style, draw)


def _published(method: str, regime: str, table: str) -> tuple[list[float], list[float]]:
    found = [
        (float(row.reduction_ratio), row.value)
        for row in reference.rows()
        if (row.table, row.method, row.regime, row.metric) == (table, method, regime, "top1")
    ]
    return [ratio for ratio, _ in found], [value for _, value in found]


def fig1b(sources: Sources, style: str = "screen") -> Figure:
    """Top-1 of Vim-S over the reduction ratio: pruned, merged, merged and re-trained; stars are ours."""
    series = (
        ("pruning", "training-free", "1a", "pruning", ()),
        ("merging", "training-free", "1a", "merging", ("training-free",)),
        ("merging", "re-trained 3ep", "1b", "merging, re-trained", ("retrained",)),
    )

    def draw(axes: Axes) -> None:
        axes.axhline(reference.top1(MODEL, 0) or 0.0, color="0.4", linewidth=1, linestyle=":", label="unmerged")
        for index, (method, regime, table, name, weights) in enumerate(series):
            xs, ys = _published(method, regime, table)
            colour = COLOURS[index]
            axes.plot(
                xs, ys, LINES[index], color=colour, marker=MARKERS[index], markerfacecolor="white", markersize=5, label=name
            )
            for r in RS:
                arms = (stored.arm for stored in sources.find(MODEL, r) if stored.arm.weights in weights and stored.arm.top1)
                arm = next(arms, None)
                if arm is not None and arm.top1 is not None:
                    axes.plot([arm.reduction_ratio], [arm.top1.value], "*", color=colour, markersize=9, label=f"{name}, ours")
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("top-1 (%)")
        handles, names = axes.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize="small", frameon=False, loc="lower left")

    return _canvas(style, draw)


DRAW: dict[str, Callable[[Sources, str], Figure]] = {"fig1b": fig1b, "fig4": fig4}
