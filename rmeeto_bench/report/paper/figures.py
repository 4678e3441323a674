"""The paper's Figures 1b and 4 from its published numbers, with our points drawn over them."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rmeeto_bench import published
from rmeeto_bench.records.run import Arm, Estimate
from rmeeto_bench.report.figures.curves import bars
from rmeeto_bench.report.figures.style import COLOURS, LINES, MARKERS, drawing
from rmeeto_bench.report.paper.sources import Sources
from rmeeto_bench.report.paper.tables.throughput import PAPER_PRECISION, on_gpu

MODEL = "vim_small"
GPUS = ("H100", "RTX 4090", "A100", "V100", "RTX 3090", "A4000")
RS = (0, 5, 10, 11, 15, 20)
OTHERS = COLOURS[-1]  # black: GPUs that the paper does not have
# Lines of Figure 1b: method and regime as published, table, name, and the weights of ours ("" where there can be none).
SERIES = (
    ("pruning", "training-free", "1a", "pruning", ""),
    ("merging", "training-free", "1a", "merging", "training-free"),
    ("merging", "re-trained 3ep", "1b", "merging, re-trained", "retrained"),
)


def _canvas(style: str, draw: Callable[[Axes], None]) -> Figure:
    with drawing(style) as chosen:
        figure = Figure(figsize=(chosen.width, chosen.height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3, linewidth=0.5)
    return figure


def _has_place(arm: Arm) -> bool:
    """Whether an arm belongs on Figure 4: it has a speed and an accuracy, in the paper's precision."""
    return arm.precision == PAPER_PRECISION and arm.images_per_second is not None and arm.top1 is not None


def speed_arms(sources: Sources, gpu: str) -> list[Arm]:
    """Our arms that belong on Figure 4 for a kind of GPU: the latest at each r with both speed and accuracy."""
    found = []
    for r in RS:
        both = (stored.arm for stored in on_gpu(sources, MODEL, r, gpu) if _has_place(stored.arm))
        found += [arm for arm in (next(both, None),) if arm is not None]
    return found


def other_gpus(sources: Sources) -> dict[str, list[Arm]]:
    """Our arms on GPUs that the paper does not have, by the name of the GPU: for each the latest at every r."""
    found: dict[str, list[Arm]] = {}
    for r in RS:
        for stored in sources.find(MODEL, r):
            arm, profile = stored.arm, stored.profile
            foreign = stored.device.kind == "cuda" and (profile is None or profile.paper_column not in GPUS)
            arms = found.setdefault(stored.device.name, []) if foreign and _has_place(arm) else None
            if arms is not None and all(known.r != r for known in arms):
                arms.append(arm)
    return found


def accuracy_arms(sources: Sources, weights: str) -> list[Arm]:
    """Our arms that belong on Figure 1b: the latest at each r with these weights and an accuracy."""
    found = []
    for r in RS:
        arms = (stored.arm for stored in sources.find(MODEL, r) if stored.arm.weights == weights and stored.arm.top1)
        found += [arm for arm in (next(arms, None),) if arm is not None]
    return found


def ours(name: str, sources: Sources) -> int:
    """How many of our points a figure shows."""
    if name == "fig4":
        known = sum(len(speed_arms(sources, gpu)) for gpu in GPUS)
        return known + sum(map(len, other_gpus(sources).values()))
    return sum(len(accuracy_arms(sources, weights)) for *_, weights in SERIES if weights)


def _speed_points(arms: list[Arm]) -> list[tuple[float, Estimate]]:
    return [(arm.images_per_second.value, arm.top1) for arm in arms if arm.images_per_second and arm.top1]


def _stars(axes: Axes, points: list[tuple[float, Estimate]], colour: str, label: str) -> None:
    """Our points: filled stars with the intervals of their accuracy."""
    if points:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.errorbar(xs, [y.value for y in ys], yerr=bars(ys), fmt="*", color=colour, markersize=9, label=label, zorder=3)


def _legend(axes: Axes, *, above: bool) -> None:
    """A legend with one entry per name, above the axes if lines fill all of them."""
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    if above:
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        figure.legend(unique.values(), unique.keys(), fontsize="small", frameon=False, ncols=4, loc="outside upper center")
    else:
        axes.legend(unique.values(), unique.keys(), fontsize="small", frameon=False, loc="lower left")


def fig4(sources: Sources, style: str = "screen") -> Figure:
    """Images/s against top-1 of Vim-S at r = 0 ... 20 on six GPUs; stars are ours, on these and on others."""

    def draw(axes: Axes) -> None:
        for index, gpu in enumerate(GPUS):
            points = [(published.throughput(MODEL, gpu, r), published.top1(MODEL, r)) for r in RS]
            known = [(speed["images_per_second"], top1) for speed, top1 in points if speed and top1 is not None]
            colour, marker, line = COLOURS[index], MARKERS[index], LINES[index % len(LINES)]
            xs, ys = [x for x, _ in known], [y for _, y in known]
            axes.plot(
                xs, ys, line, color=colour, marker=marker, markerfacecolor="white", markersize=5, linewidth=1.2, label=gpu
            )
            _stars(axes, _speed_points(speed_arms(sources, gpu)), colour, "ours")
        for index, (name, arms) in enumerate(other_gpus(sources).items()):
            measured = _speed_points(arms)
            line = LINES[index % len(LINES)]
            axes.plot([x for x, _ in measured], [y.value for _, y in measured], line, color=OTHERS, linewidth=1.2)
            _stars(axes, measured, OTHERS, f"ours, {name}")
        axes.set_xscale("log")
        axes.set_xticks([tick for tick in (400, 700, 1000, 1500, 2500, 5000, 10_000, 20_000) if tick <= axes.get_xlim()[1]])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("images/s (fp16, log scale)")
        axes.set_ylabel("top-1 (%)")
        _legend(axes, above=True)

    return _canvas(style, draw)


def _published(method: str, regime: str, table: str) -> tuple[list[float], list[float]]:
    found = [
        (float(row.reduction_ratio), row.value)
        for row in published.rows()
        if (row.table, row.method, row.regime, row.metric) == (table, method, regime, "top1")
    ]
    return [ratio for ratio, _ in found], [value for _, value in found]


def fig1b(sources: Sources, style: str = "screen") -> Figure:
    """Top-1 of Vim-S over the reduction ratio: pruned, merged, merged and re-trained; stars are ours."""

    def draw(axes: Axes) -> None:
        axes.axhline(published.top1(MODEL, 0) or 0.0, color="0.4", linewidth=1, linestyle=":", label="unmerged")
        for index, (method, regime, table, name, weights) in enumerate(SERIES):
            xs, ys = _published(method, regime, table)
            colour = COLOURS[index]
            axes.plot(
                xs, ys, LINES[index], color=colour, marker=MARKERS[index], markerfacecolor="white", markersize=5, label=name
            )
            if weights:
                points = [(arm.reduction_ratio, arm.top1) for arm in accuracy_arms(sources, weights)]
                _stars(axes, [(x, y) for x, y in points if y], colour, f"{name}, ours")
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("top-1 (%)")
        _legend(axes, above=False)

    return _canvas(style, draw)


DRAW: dict[str, Callable[[Sources, str], Figure]] = {"fig1b": fig1b, "fig4": fig4}
