"""The figures of stored runs by name: speed-accuracy per GPU, speed-up over the ratio, re-training, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.statistics import break_even
from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.figures.curves import Line, blank, curve, legend, lines_of, look
from rmeeto_bench.report.figures.style import COLOURS, draw_speed_accuracy, drawing

GREY = "0.4"
MANY = 16  # curves; more are drawn in one panel without a legend


def speed_accuracy(records: Sequence[RunRecord], style: str = "screen") -> Figure:
    """images/s against top-1 in the manner of the paper's Figure 4, a panel per GPU; without any accuracy, images/s over the
    ratio; where nothing was timed, top-1 over the ratio. Labels are ratios, hollow points training-free."""
    lines = lines_of(records)
    if not any(arm.images_per_second for line in lines for arm in line.arms) and any(a.top1 for x in lines for a in x.arms):
        return _accuracy(lines, style)
    accuracy = any(arm.top1 for line in lines for arm in line.arms)
    devices = list(dict.fromkeys(line.device for line in lines)) or [""]
    if len(lines) > MANY:
        return _folded(lines, style, accuracy=accuracy)
    with drawing(style):
        figure, panels = blank(style, panels=len(devices))
        for axes, device in zip(panels, devices, strict=True):
            here = [line for line in lines if line.device == device]
            for index, line in enumerate(here):
                name = f"{line.model}{line.suffix}" if len(devices) > 1 else line.name
                draw_speed_accuracy(axes, index, name, list(line.arms), accuracy=accuracy)
            if len(devices) > 1:
                axes.set_title(device, fontsize="medium")
            axes.margins(0.14 if len(devices) == 1 else 0.22)
            if axes.lines:
                hollow = any(arm.weights == "training-free" for line in here for arm in line.arms)
                axes.legend(fontsize="small", frameon=False, title="hollow: training-free" if hollow else None)
        figure.supxlabel("images/s (labels: reduction ratio)" if accuracy else "reduction ratio", fontsize="medium")
        figure.supylabel("top-1 (%)" if accuracy else "images/s", fontsize="medium")
    return figure


def _accuracy(lines: Sequence[Line], style: str) -> Figure:
    """Top-1 over the ratio, a curve for each model of an evaluation."""
    with drawing(style):
        figure, (axes,) = blank(style)
        for index, line in enumerate(lines):
            known = [arm for arm in line.arms if arm.top1]
            curve(
                axes, [arm.reduction_ratio for arm in known], [_top1(arm) for arm in known], index, f"{line.model}{line.suffix}"
            )
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("top-1 (%)")
        legend(axes, style)
    return figure


def _folded(lines: Sequence[Line], style: str, *, accuracy: bool) -> Figure:
    """All devices in one panel, a thin line each: hundreds of panels or entries of a legend tell nothing."""
    with drawing(style):
        figure, (axes,) = blank(style)
        for line in lines:
            known = [(arm, arm.images_per_second) for arm in line.arms if arm.images_per_second and (arm.top1 or not accuracy)]
            rates = [rate.value for _, rate in known]
            if accuracy:
                axes.plot(rates, [_top1(arm).value for arm, _ in known], "-", color=COLOURS[0], linewidth=0.6, alpha=0.4)
            else:
                axes.plot([arm.reduction_ratio for arm, _ in known], rates, "-", color=COLOURS[0], linewidth=0.6, alpha=0.4)
        axes.set_title(f"{len(lines)} curves, one for each device and model", fontsize="medium")
        axes.set_xlabel("images/s" if accuracy else "reduction ratio")
        axes.set_ylabel("top-1 (%)" if accuracy else "images/s")
    return figure


def _token_bound(axes: Axes, largest: float) -> None:
    xs = [largest * i / 40 for i in range(41)]
    axes.plot(xs, [1 / (1 - x) for x in xs], ":", color=GREY, linewidth=1.2, label="token bound, 1 / (1 - ratio)")
    axes.axhline(1.0, color=GREY, linewidth=0.8)


def _break_even(axes: Axes, timed: Sequence[Arm], index: int) -> str:
    """Mark the ratio from which on merging pays; returns it for the legend, nothing if it always or never does."""
    ratio = break_even([arm.reduction_ratio for arm in timed], [arm.speedup.value for arm in timed if arm.speedup])
    if not ratio:
        return ""
    axes.plot([ratio], [1.0], "|", color=look(index)["color"], markersize=14, markeredgewidth=1.5)
    return f", pays from {ratio:.2f}"


def speedup(records: Sequence[RunRecord], style: str) -> Figure:
    """Speed-up over the ratio with its interval, the bound that the tokens set, and where merging breaks even; published
    values as crosses."""
    lines = [line for line in lines_of(records) if any(arm.r and arm.speedup for arm in line.arms)]
    if not lines:
        raise DataError("these runs have no speed-up; measure r = 0 and at least one other")
    with drawing(style):
        figure, (axes,) = blank(style)
        largest = 0.0
        for index, line in enumerate(lines):
            timed = [arm for arm in line.arms if arm.speedup is not None]
            largest = max(largest, *(arm.reduction_ratio for arm in timed))
            name = line.name + _break_even(axes, timed, index)
            curve(axes, [a.reduction_ratio for a in timed], [a.speedup for a in timed if a.speedup], index, name)
            printed = [(arm.reduction_ratio, arm.paper["speedup"]) for arm in timed if arm.paper and "speedup" in arm.paper]
            if printed:
                xs, ys = zip(*printed, strict=True)
                axes.plot(xs, ys, "x", color=look(index)["color"], markersize=5, label=f"{line.device}, published")
        _token_bound(axes, largest)
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("speed-up over no merging")
        axes.margins(y=0.12)
        if len(lines) <= MANY:
            legend(axes, style, loc="upper left")
    return figure


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
    with drawing(style):
        figure, (axes,) = blank(style)
        for index, (model, weights) in enumerate(models.items()):
            colour = look(index)["color"]
            before, after = weights["training-free"], weights["retrained"]
            for r in sorted(set(before) & set(after)):
                x = after[r].reduction_ratio
                axes.plot([x, x], [_top1(before[r]).value, _top1(after[r]).value], "-", color=colour, linewidth=0.8, alpha=0.6)
            for arms, label in ((after, "re-trained"), (before, "training-free")):
                rs = sorted(arms)
                xs, ys = [arms[r].reduction_ratio for r in rs], [_top1(arms[r]) for r in rs]
                curve(axes, xs, ys, index, f"{model}, {label}", hollow=arms is before)
            baseline = weights.get("baseline", {}).get(0)
            if baseline is not None:
                axes.axhline(_top1(baseline).value, color=colour, linewidth=0.8, linestyle=":", label=f"{model}, no merging")
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("top-1 (%)")
        axes.margins(0.08)
        legend(axes, style)
    return figure


def _top1(arm: Arm) -> Estimate:
    assert arm.top1 is not None
    return arm.top1


Joules = Mapping[tuple[str, str, str], Estimate]  # (run id, device, arm) -> J/image


def energy(records: Sequence[RunRecord], style: str, joules: Joules) -> Figure:
    """Joules per image over the ratio, of every device whose counter was read."""
    drawn: list[tuple[str, list[float], list[Estimate]]] = []
    for record in records:
        for line in lines_of([record]):
            known = [(arm, joules.get((record.run_id, arm.device, arm.arm))) for arm in line.arms]
            pairs = [(arm.reduction_ratio, value) for arm, value in known if value is not None]
            if pairs:
                drawn.append((line.name, [ratio for ratio, _ in pairs], [value for _, value in pairs]))
    if not drawn:
        raise DataError("these runs have no energy that can be trusted; it needs a GPU whose driver counts it")
    with drawing(style):
        figure, (axes,) = blank(style)
        for index, (name, ratios, values) in enumerate(drawn):
            curve(axes, ratios, values, index, name)
        axes.set_xlabel("reduction ratio")
        axes.set_ylabel("J/image")
        axes.set_ylim(0, None)
        if len(drawn) <= MANY:
            legend(axes, style)
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
        figure, (axes,) = blank(style)
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
        legend(axes, style, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.3)
    return figure


KINDS: dict[str, Callable[[Sequence[RunRecord], str], Figure]] = {
    "speed_accuracy": speed_accuracy,
    "speedup": speedup,
    "retraining": retraining,
}
