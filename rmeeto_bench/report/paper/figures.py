"""The paper's Figures 1b and 4 from its published numbers, with our points drawn over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench import published
from rmeeto_bench.records.run import Arm, Estimate
from rmeeto_bench.report.figures.curves import Curve, bars, blank, draw, log_rates, look
from rmeeto_bench.report.figures.labels import WIDTH, Name, above, beside, short
from rmeeto_bench.report.figures.style import drawing
from rmeeto_bench.report.paper.sources import Sources
from rmeeto_bench.report.paper.tables.throughput import PAPER_PRECISION, on_gpu

MODEL = "vim_small"
GPUS = ("H100", "RTX 4090", "A100", "V100", "RTX 3090", "A4000")
RS = (0, 5, 10, 11, 15, 20)
# Lines of Figure 1b: method and regime as published, table, name, and the weights of ours ("" where there can be none).
SERIES = (
    ("pruning", "training-free", "1a", "pruning", ""),
    ("merging", "training-free", "1a", "merging", "training-free"),
    ("merging", "re-trained 3ep", "1b", "merging,\nre-trained", "retrained"),
)


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


def _speed_points(arms: list[Arm]) -> tuple[list[Estimate], list[Estimate]]:
    return [arm.images_per_second for arm in arms if arm.images_per_second], [arm.top1 for arm in arms if arm.top1]


def _stars(axes: Axes, xs: Sequence[Estimate], ys: Sequence[Estimate], index: int) -> bool:
    """Our points beside a published curve, filled stars with the intervals of their accuracy; whether there are any."""
    if xs:
        style: dict[str, Any] = {"fmt": "*", "color": look(index)["color"], "markersize": 9, "zorder": 3}
        axes.errorbar([x.value for x in xs], [y.value for y in ys], yerr=bars(ys), **style)
    return bool(xs)


def fig4(sources: Sources, style: str = "screen") -> Figure:
    """Images/s against top-1 of Vim-S at r = 0 ... 20 on six GPUs; stars are ours, on these and on others."""
    curves = []
    for gpu in GPUS:
        points = [(published.throughput(MODEL, gpu, r), published.top1(MODEL, r)) for r in RS]
        known = [(Estimate(speed["images_per_second"]), Estimate(top1)) for speed, top1 in points if speed and top1]
        curves.append(Curve([x for x, _ in known], [y for _, y in known], gpu, [True] * len(known)))
    foreign = {name: _speed_points(arms) for name, arms in other_gpus(sources).items()}
    curves += [Curve(xs, ys, short(f"ours, {name}", WIDTH[style])) for name, (xs, ys) in foreign.items()]
    with drawing(style):
        figure, axes = blank(style)
        names = draw(axes, curves, end=0)
        mine = [_stars(axes, *_speed_points(speed_arms(sources, gpu)), index) for index, gpu in enumerate(GPUS)]
        mine += [_stars(axes, xs, ys, len(GPUS) + index) for index, (xs, ys) in enumerate(foreign.values())]
        log_rates(axes)
        axes.set_xlabel("images/s (fp16, log scale; stars: ours)" if any(mine) else "images/s (fp16, log scale)")
        axes.set_ylabel("top-1 (%)")
        above(axes, names)
    return figure


def _published(method: str, regime: str, table: str, name: str) -> Curve:
    found = [
        (Estimate(float(row.reduction_ratio)), Estimate(row.value))
        for row in published.rows()
        if (row.table, row.method, row.regime, row.metric) == (table, method, regime, "top1")
    ]
    return Curve([x for x, _ in found], [y for _, y in found], name, [True] * len(found))


def fig1b(sources: Sources, style: str = "screen") -> Figure:
    """Top-1 of Vim-S over the reduction ratio: pruned, merged, merged and re-trained; stars are ours."""
    curves = [_published(method, regime, table, name) for method, regime, table, name, _ in SERIES]
    baseline = published.top1(MODEL, 0) or 0.0
    with drawing(style):
        figure, axes = blank(style)
        names = draw(axes, curves, end=-1)
        axes.axhline(baseline, color="0.4", linewidth=1, linestyle=":")
        names.append(Name("unmerged", names[0].x, baseline, "0.4"))
        mine = [
            _stars(axes, [Estimate(arm.reduction_ratio) for arm in arms], [arm.top1 for arm in arms if arm.top1], index)
            for index, (*_, weights) in enumerate(SERIES)
            for arms in ([accuracy_arms(sources, weights)] if weights else [])
        ]
        axes.set_xlabel("reduction ratio (stars: ours)" if any(mine) else "reduction ratio")
        axes.set_ylabel("top-1 (%)")
        beside(axes, names)
    return figure


DRAW: dict[str, Callable[[Sources, str], Figure]] = {"fig1b": fig1b, "fig4": fig4}
