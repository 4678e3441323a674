"""Speed, speed-up by merging and memory over the tokens of an image, of runs that hold a model at several image sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rmeeto_bench.errors import DataError
from rmeeto_bench.models.sizes import COMPILE, config, is_other, without_size
from rmeeto_bench.records.run import Arm, Estimate, RunRecord
from rmeeto_bench.report.figures.curves import Curve, Line, draw, log_rates, names_of
from rmeeto_bench.report.figures.labels import WIDTH, beside
from rmeeto_bench.report.figures.style import drawing

GREY = "0.4"
PANEL = 0.62  # height of a panel, as a share of a figure's
APART = {"screen": 0.17, "paper": 0.26}  # least distance of two labelled sizes, as a share of the axis

Speedups = Mapping[tuple[str, str, str], Estimate]  # (run id, device, arm) -> speed-up over r = 0 of the same model


@dataclass(frozen=True)
class _Point:
    """An arm at one image size."""

    tokens: int  # of an image, before any merge
    pixels: int  # height and width of the image
    run_id: str  # of its run
    arm: Arm  # that was timed


def _points(records: Sequence[RunRecord]) -> list[tuple[Line, list[_Point]]]:
    """A line for each device, model, ratio, setting and kernels, the merged ones first, with its points by ascending tokens. A
    size that was timed again, in another run, begins a line of its own."""
    found: dict[tuple[bool, str, str, str, str], list[list[_Point]]] = {}
    for record in records:
        for arm in record.arms:
            if arm.images_per_second is None or is_other(arm.model):
                continue
            sized, family = config(arm.model), COMPILE * arm.model.startswith(COMPILE) + without_size(arm.model)[0]
            name = f"{family} at\xa0{arm.ratio_requested:.2f}" if arm.r else family
            setting = f"{arm.precision}, batch {arm.batch_size}, {arm.what}"
            lines = found.setdefault((arm.r == 0, record.label(arm.device), name, setting, arm.backend), [])
            point = _Point(sized.num_tokens, sized.img_size, record.run_id, arm)
            free = next((line for line in lines if all(other.tokens != point.tokens for other in line)), None)
            lines.append([point]) if free is None else free.append(point)
    several = len({key[3] for key in found}) > 1
    backends = Counter(key[:4] for key in found)
    drawn = []
    for key, lines in sorted(found.items(), key=lambda entry: entry[0][0]):
        told = [key[3]] * several + [key[4]] * (backends[key[:4]] > 1)
        for points in lines:
            words = ", ".join([*told, *[points[0].run_id] * (len(lines) > 1)])
            line = Line(key[1], key[2], tuple(point.arm for point in points), words and f" ({words})")
            drawn.append((line, sorted(points, key=lambda point: point.tokens)))
    return drawn


def has_sizes(records: Sequence[RunRecord]) -> bool:
    """Whether some model was timed at two image sizes or more."""
    return any(len({point.tokens for point in points}) > 1 for _, points in _points(records))


def tokens(records: Sequence[RunRecord], style: str, speedups: Speedups) -> Figure:
    """images/s, speed-up over no merging, and on GPUs the memory, a panel each. Raises `DataError` for runs of one size."""
    if not has_sizes(records):
        raise DataError("no model was timed at two image sizes; measure with --img-size 224,384, or give the runs of each size")
    lines = _points(records)
    common, names = names_of([line for line, _ in lines], width=WIDTH[style])

    def curves(value: Callable[[_Point], Estimate | None]) -> list[Curve]:
        known = [[(Estimate(point.tokens), y) for point in points if (y := value(point))] for _, points in lines]
        pairs = [(name, found) for name, found in zip(names, known, strict=True) if found]
        return [Curve([x for x, _ in found], [y for _, y in found], name) for name, found in pairs]

    panels = {
        "images/s": curves(lambda point: point.arm.images_per_second),
        "speed-up over\nno merging": curves(
            lambda point: speedups.get((point.run_id, point.arm.device, point.arm.arm)) if point.arm.r else None
        ),
        "peak GPU\nmemory (MiB)": curves(
            lambda point: None if point.arm.peak_memory_mib is None else Estimate(point.arm.peak_memory_mib)
        ),
    }
    shown = {label: found for label, found in panels.items() if found}
    with drawing(style) as chosen:
        size = (chosen.width, (0.25 + PANEL * len(shown)) * chosen.height)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        ends = [draw(axes, found, end=-1) for axes, found in zip(grid, shown.values(), strict=True)]
        figure.suptitle(common, fontsize="medium")
        for axes, label in zip(grid, shown, strict=True):
            axes.grid(alpha=0.3, linewidth=0.5)
            axes.set_ylabel(label)
            if label.startswith("speed-up"):
                axes.axhline(1.0, color=GREY, linewidth=0.8)
            else:
                log_rates(axes, "y")
        _name_sizes(grid[-1], [point for _, points in lines for point in points], style)
        for axes, own in zip(grid, ends, strict=True):
            beside(axes, own)
    return figure


def _name_sizes(axes: Axes, points: Sequence[_Point], style: str) -> None:
    """Tokens on a logarithmic axis, with a label at each size that has room for one."""
    axes.set_xscale("log")
    pixels: dict[int, list[int]] = {}
    for point in sorted(points, key=lambda point: (point.tokens, point.pixels)):
        pixels.setdefault(point.tokens, []).append(point.pixels)
    whole = log(max(pixels) / min(pixels))
    shown: list[int] = []
    for count in pixels:
        if not shown or log(count / shown[-1]) > APART[style] * whole:
            shown.append(count)
    axes.set_xticks(shown, [f"{count:,}\n{'/'.join(map(str, dict.fromkeys(pixels[count])))} px" for count in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08)
    axes.set_xlabel("tokens and size of an image\n(at: reduction ratio)")
