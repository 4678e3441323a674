"""The figures of stored runs by name: speed against accuracy, speed-up over the ratio, re-training, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.errors import DataError
from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.figures.curves import Curve, Line, blank, draw, lines_of, log_rates, look, names_of
from rmeeto_bench.report.figures.labels import WIDTH, Name, above, at_points, beside
from rmeeto_bench.report.figures.models import draw_front, in_plane, is_comparison, over_baseline
from rmeeto_bench.report.figures.style import COLOURS, drawing

GREY = "0.4"
LOG = 6.0  # the fastest rate over the slowest from which on rates stand on a logarithmic axis


def speed_accuracy(records: Sequence[RunRecord], style: str = "screen") -> Figure:
    """images/s against top-1, a line for each device and model, as in the paper's Figure 4; without any accuracy, speed-up over
    the ratio; where nothing was timed, top-1 over the ratio. Small labels are ratios, hollow points training-free."""
    lines = [(line, [arm for arm in line.arms if arm.images_per_second and arm.top1]) for line in lines_of(records)]
    lines = [(line, arms) for line, arms in lines if arms]
    several = is_comparison(records)
    if several and not in_plane(records) and any(arm.speedup for record in records for arm in record.arms):
        with drawing(style):
            return over_baseline(records, style)
    if not lines:
        timed = any(arm.images_per_second for record in records for arm in record.arms)
        known = any(arm.top1 for record in records for arm in record.arms)
        return _accuracy(records, style) if known and not timed else _speedup(records, style)
    common, names = names_of([line for line, _ in lines], width=WIDTH[style])
    curves = [
        Curve(
            [arm.images_per_second for arm in arms if arm.images_per_second],
            [arm.top1 for arm in arms if arm.top1],
            name,
            [arm.weights == "training-free" for arm in arms],
        )
        for (_, arms), name in zip(lines, names, strict=True)
    ]
    with drawing(style):
        figure, axes = blank(style)
        ends = draw(axes, curves, end=0)
        rates = [rate.value for curve in curves for rate in curve.xs]
        if max(rates) > LOG * min(rates):
            log_rates(axes)
        ratios = _ratio_labels([(line, arms) for line, arms in lines if not several or len(arms) > 1])
        hollow = any(any(curve.hollow) for curve in curves)
        legend = ["labels: reduction ratio"] * bool(ratios) + ["hollow: training-free"] * hollow
        axes.set_xlabel("images/s" + (f" ({'; '.join(legend)})" if legend else ""))
        axes.set_ylabel("top-1 (%)")
        axes.margins(0.1)
        figure.suptitle(common, fontsize="medium")
        points = {curve.xs[0].value for curve in curves if several and len(curve.xs) == 1}  # such a model is named at its point
        above(axes, [end for end in ends if end.x not in points])
        if several:
            draw_front(axes, records)
        named = [(end.text, end.x, end.y) for end in ends if end.x in points]
        at_points(axes, [*named, *ratios])
    return figure


def _ratio_labels(lines: Sequence[tuple[Line, Sequence[Arm]]]) -> list[tuple[str, float, float]]:
    """The ratios along the fastest line of each model: those of its other lines stand at the same heights."""
    fastest: dict[str, tuple[float, Sequence[Arm]]] = {}
    for line, arms in lines:
        rate = max(arm.images_per_second.value for arm in arms if arm.images_per_second)
        fastest[line.model] = max(fastest.get(line.model, (0.0, arms)), (rate, arms), key=lambda pair: pair[0])
    return [
        (f"{arm.ratio_requested:.2f}", arm.images_per_second.value, arm.top1.value)
        for _, arms in fastest.values()
        for arm in arms
        if arm.images_per_second and arm.top1 and arm.token_counts
    ]


def _accuracy(records: Sequence[RunRecord], style: str) -> Figure:
    """Top-1 over the ratio, a curve for each device and model of an evaluation."""
    lines = [line for line in lines_of(records) if any(arm.top1 for arm in line.arms)]
    common, names = names_of(lines, width=WIDTH[style])
    known = [[arm for arm in line.arms if arm.top1] for line in lines]
    curves = [
        Curve(
            [Estimate(arm.reduction_ratio) for arm in arms],
            [arm.top1 for arm in arms if arm.top1],
            name,
            [arm.weights == "training-free" for arm in arms],
        )
        for arms, name in zip(known, names, strict=True)
    ]
    with drawing(style):
        figure, axes = blank(style)
        ends = draw(axes, curves, end=-1)
        axes.set_xlabel("reduction ratio" + (" (hollow: training-free)" if any(any(c.hollow) for c in curves) else ""))
        axes.set_ylabel("top-1 (%)")
        axes.margins(y=0.12)
        figure.suptitle(common, fontsize="medium")
        beside(axes, ends)
    return figure


def _speedup(records: Sequence[RunRecord], style: str) -> Figure:
    """The speed-ups of these runs, or empty axes that say why there are none."""
    lines = [line for line in lines_of(records) if any(arm.r and arm.speedup for arm in line.arms)]
    common, names = names_of(lines, width=WIDTH[style])
    with drawing(style):
        figure, axes = blank(style)
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("speed-up over no merging")
        if not lines:
            axes.text(0.5, 0.5, "nothing to compare with r = 0", transform=axes.transAxes, ha="center")
            return figure
        timed = [[arm for arm in line.arms if arm.speedup is not None] for line in lines]
        curves = [
            Curve([Estimate(arm.reduction_ratio) for arm in arms], [arm.speedup for arm in arms if arm.speedup], name)
            for arms, name in zip(timed, names, strict=True)
        ]
        ends = draw(axes, curves, end=-1)
        for index, arms in enumerate(timed):
            printed = [(arm.reduction_ratio, arm.paper["speedup"]) for arm in arms if arm.paper and "speedup" in arm.paper]
            if printed:
                axes.plot(*zip(*printed, strict=True), "x", color=look(index)["color"], markersize=5)
                axes.set_xlabel("reduction ratio (crosses: published)")
        axes.margins(y=0.12)
        figure.suptitle(common, fontsize="medium")
        beside(axes, [*ends, _token_bound(axes, max(arm.reduction_ratio for arms in timed for arm in arms))])
    return figure


def _token_bound(axes: Axes, largest: float) -> Name:
    xs = [largest * i / 40 for i in range(41)]
    axes.plot(xs, [1 / (1 - x) for x in xs], ":", color=GREY, linewidth=1.2)
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    return Name("token bound,\n1 / (1 - ratio)", largest, 1 / (1 - largest), GREY)


def speedup(records: Sequence[RunRecord], style: str) -> Figure:
    """Speed-up over the ratio with its interval, and the bound that the tokens set; published values as crosses."""
    if not any(arm.speedup and not arm.is_baseline for record in records for arm in record.arms):
        raise DataError("these runs have no speed-up; measure r = 0 and at least one other")
    if is_comparison(records):
        with drawing(style):
            return over_baseline(records, style)
    return _speedup(records, style)


def _by_weights(lines: Sequence[Line]) -> dict[str, dict[str, dict[int, Arm]]]:
    """Model -> weights -> r -> arm, of arms with an accuracy. Accuracy is the model's, whatever device it was taken on."""
    found: dict[str, dict[str, dict[int, Arm]]] = {}
    for line in lines:
        for arm in line.arms:
            if arm.top1 is not None:
                found.setdefault(line.model, {}).setdefault(arm.weights, {}).setdefault(arm.r, arm)
    return found


def retraining(records: Sequence[RunRecord], style: str) -> Figure:
    """Top-1 over the ratio before re-training (hollow) and after it (filled), and the baseline's."""
    models = {
        model: weights
        for model, weights in _by_weights(lines_of(records)).items()
        if "training-free" in weights and "retrained" in weights
    }
    if not models:
        raise DataError(
            "no model has accuracies both before and after re-training; give a run with re-trained checkpoints "
            "and one with the baseline's for all r (--checkpoints FILE)"
        )
    curves, rules = [], []
    for model, weights in models.items():
        for kind, words in (("retrained", "re-trained"), ("training-free", "training-free")):
            arms = [arm for _, arm in sorted(weights[kind].items())]
            ratios, free = [Estimate(arm.reduction_ratio) for arm in arms], kind == "training-free"
            curves.append(Curve(ratios, list(map(_top1, arms)), f"{model},\n{words}", [free] * len(arms)))
        rules.append((model, weights.get("baseline", {}).get(0)))
    with drawing(style):
        figure, axes = blank(style)
        names = draw(axes, curves, end=-1)
        for index, (model, baseline) in enumerate(rules):
            if baseline is not None:
                height, colour = _top1(baseline).value, look(2 * index)["color"]
                axes.axhline(height, color=colour, linewidth=0.8, linestyle=":")
                names.append(Name(f"{model},\nno merging", max(curve.xs[-1].value for curve in curves), height, colour))
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("top-1 (%)")
        axes.margins(0.08)
        beside(axes, names)
    return figure


def _top1(arm: Arm) -> Estimate:
    assert arm.top1 is not None
    return arm.top1


Joules = Mapping[tuple[str, str, str], Estimate]  # (run id, device, arm) -> J/image


def energy(records: Sequence[RunRecord], style: str, joules: Joules) -> Figure:
    """Joules per image over the ratio, of every device whose counter was read."""
    lines, curves = [], []
    for record in records:
        for line in lines_of([record]):
            known = [(arm, joules.get((record.run_id, arm.device, arm.arm))) for arm in line.arms]
            pairs = [(Estimate(arm.reduction_ratio), value) for arm, value in known if value is not None]
            if pairs:
                lines.append(line)
                curves.append(Curve([ratio for ratio, _ in pairs], [value for _, value in pairs], ""))
    if not curves:
        raise DataError("these runs have no energy that can be trusted; it needs a GPU whose driver counts it")
    common, names = names_of(lines, width=WIDTH[style])
    with drawing(style):
        figure, axes = blank(style)
        ends = draw(axes, [replace(curve, name=name) for curve, name in zip(curves, names, strict=True)], end=-1)
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("J/image")
        axes.set_ylim(0, None)
        figure.suptitle(common, fontsize="medium")
        beside(axes, ends)
    return figure


def kernel_times(checks: Sequence[Mapping[str, object]], style: str) -> Figure:
    """Milliseconds of each kernel of a Vim-S block, from reports of benchmarks/gpu_check.py; labels are shares of bandwidth."""
    rows: list[tuple[str, dict[str, Mapping[str, float]]]] = []
    for check in checks:
        provenance, kernels = check.get("provenance"), check.get("kernels")
        if not isinstance(provenance, Mapping) or not isinstance(kernels, Mapping):
            raise DataError("this is no report of benchmarks/gpu_check.py with kernel times; run it with the part `kernels`")
        rows.append((str(provenance.get("device")), {k: v for k, v in kernels.items() if isinstance(v, Mapping) and "ms" in v}))
    names = list(dict.fromkeys(name for _, kernels in rows for name in kernels))
    names.sort(key=lambda name: max(kernels[name]["ms"] for _, kernels in rows if name in kernels))
    with drawing(style):
        figure, axes = blank(style)
        thick = 0.8 / len(rows)
        for index, (device, kernels) in enumerate(rows):
            here = [i for i, name in enumerate(names) if name in kernels]
            places = [i + ((len(rows) - 1) / 2 - index) * thick for i in here]
            values = [kernels[names[i]]["ms"] for i in here]
            hatch = ("", "//", "..", "xx")[index % 4]
            axes.barh(places, values, thick, color=COLOURS[index], hatch=hatch, edgecolor="white", label=device)
            for place, i, value in zip(places, here, values, strict=True):
                share = kernels[names[i]].get("share_of_bandwidth")
                text = f"{value:.3g} ms" + (f", {share:.0%}" if share is not None else "")
                axes.annotate(text, (value, place), (3, 0), textcoords="offset points", va="center", fontsize="small")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("ms per call, share of bandwidth")
        axes.set_xlim(0, 1.3 * max(kernels[name]["ms"] for _, kernels in rows for name in kernels))
        axes.grid(visible=False, axis="y")
        axes.legend(fontsize="small", frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.3)
    return figure


KINDS: dict[str, Callable[[Sequence[RunRecord], str], Figure]] = {
    "speed_accuracy": speed_accuracy,
    "speedup": speedup,
    "retraining": retraining,
}
