"""Figures of runs that compare several models: the front of speed and accuracy, and the speed of every arm over that of one."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.records.run import Arm, RunRecord
from rmeeto_bench.report.figures.curves import bars, blank, log_rates, look
from rmeeto_bench.report.figures.style import STYLES
from rmeeto_bench.report.run.front import front_by_values

GREY = "0.4"
LOG = 6.0  # the largest ratio over the smallest from which on they stand on a logarithmic axis
ROW = 0.26  # inches of an arm


def is_comparison(records: Sequence[RunRecord]) -> bool:
    """Whether the arms of several models stand beside each other in these runs."""
    return bool(records) and all(arm.baseline for record in records for arm in record.arms)


def in_plane(records: Sequence[RunRecord]) -> bool:
    """Whether at least two models have both a speed and an accuracy."""
    return len({arm.model for record in records for arm in record.arms if arm.images_per_second and arm.top1}) > 1


def draw_front(axes: Axes, records: Sequence[RunRecord]) -> None:
    """The front of each device by the values, as steps behind the points: whoever lies below and left of it is beaten."""
    left, low = axes.get_xlim()[0], axes.get_ylim()[0]
    for record in records:
        for device in record.devices:
            best = front_by_values([arm for arm in record.arms if arm.device == device.id])
            xs = [arm.images_per_second.value for arm in best if arm.images_per_second]
            ys = [arm.top1.value for arm in best if arm.top1]
            if best:
                axes.step([xs[0], *xs, left], [low, *ys, ys[-1]], where="post", color=GREY, linewidth=4, alpha=0.25, zorder=0)
    axes.set(xlim=(left, None), ylim=(low, None), xlabel=f"{axes.get_xlabel()}; grey: the front by the values")


def over_baseline(records: Sequence[RunRecord], style: str) -> Figure:
    """Images/s of every arm over the baseline's, a row for each, a look for each model."""
    rows = [(record.label(arm.device), arm) for record in records for arm in record.arms if arm.speedup is not None]
    devices = list(dict.fromkeys(device for device, _ in rows))
    models = list(dict.fromkeys(arm.model for _, arm in rows))
    figure, axes = blank(style)
    figure.set_size_inches(STYLES[style].width, max(1.6, 0.9 + ROW * len(rows)))
    for index, model in enumerate(models):
        mine = [(place, arm.speedup) for place, (_, arm) in enumerate(rows) if arm.model == model and arm.speedup is not None]
        looks = look(index) | {"linestyle": ""}
        values, places = [speedup.value for _, speedup in mine], [place for place, _ in mine]
        whiskers = {"fmt": "none", "ecolor": looks["color"], "elinewidth": 1.0, "capsize": 2}
        axes.errorbar(values, places, xerr=bars([speedup for _, speedup in mine]), **whiskers)
        axes.plot(values, places, **looks)
    axes.axvline(1.0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_name(arm, device if len(devices) > 1 else "") for device, arm in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    ratios = [arm.speedup.value for _, arm in rows if arm.speedup is not None]
    if ratios and max(ratios) > LOG * min(ratios):
        log_rates(axes)
    over = " or ".join(dict.fromkeys(arm.baseline for _, arm in rows))
    axes.set_xlabel(f"images/s over {over}" if over else "nothing was timed")
    if len(devices) == 1:
        figure.suptitle(devices[0], fontsize="medium")
    return figure


def _name(arm: Arm, device: str) -> str:
    return f"{device}, {arm.title}" if device else arm.title
