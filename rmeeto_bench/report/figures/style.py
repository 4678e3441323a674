"""What all figures share: sizes, fonts, colours, deterministic files; and one curve of images/s against top-1."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.run import Arm

# Okabe and Ito's colours are told apart by every kind of colour vision; markers and line styles carry the rest in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Style:
    """Size in inches, font size in points, resolution of a PNG."""

    width: float
    height: float
    font: float
    dpi: int = 200


STYLES = {"screen": Style(6.4, 4.2, 10), "paper": Style(3.35, 2.4, 8, 300)}


@contextmanager
def drawing(style: str) -> Iterator[Style]:
    """The context in which a figure is made and written. Names are text, never mathematics, and a user's own defaults
    (a matplotlibrc with TeX, say) do not count. Fonts are outlines that camera-ready checks accept; files are the same bytes
    every time."""
    chosen = STYLES[style]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_settings(chosen))
        yield chosen


def _settings(style: Style) -> dict[Any, Any]:
    return {
        "text.parse_math": False,
        "font.size": style.font,
        "font.family": "DejaVu Sans",
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.hashsalt": "rmeeto-bench",
        "svg.fonttype": "path",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def _errors(values: list[tuple[float, float | None, float | None]]) -> list[list[float]]:
    below = [max(0.0, value - low) if low is not None else 0.0 for value, low, _ in values]
    above = [max(0.0, high - value) if high is not None else 0.0 for value, _, high in values]
    return [below, above]


def _points(arms: list[Arm], *, accuracy: bool) -> tuple[list[Arm], list[tuple], list[tuple]]:
    """(arms with both values, x, y), each value with its interval."""
    shown = [arm for arm in arms if arm.images_per_second and (arm.top1 or not accuracy)]
    speed = [
        (a.images_per_second.value, a.images_per_second.low, a.images_per_second.high) for a in shown if a.images_per_second
    ]
    if not accuracy:
        return shown, [(arm.reduction_ratio, None, None) for arm in shown], speed
    return shown, speed, [(arm.top1.value, arm.top1.low, arm.top1.high) for arm in shown if arm.top1]


def _crowded(xs: list[float], ys: list[float]) -> list[bool]:
    """Whether a point lies so close to the one before it that their labels would overlap."""
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    close = [False]
    for i in range(1, len(xs)):
        near = abs(xs[i] - xs[i - 1]) < 0.14 * wide and abs(ys[i] - ys[i - 1]) < 0.2 * high
        close.append(near and not close[-1])
    return close


def draw_speed_accuracy(axes: Axes, index: int, name: str, arms: list[Arm], *, accuracy: bool) -> None:
    """One curve of the speed-accuracy plot; training-free points are hollow, labels are ratios."""
    shown, x, y = _points(arms, accuracy=accuracy)
    if not shown:
        return
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    xs, ys = [p[0] for p in x], [p[0] for p in y]
    axes.errorbar(xs, ys, xerr=_errors(x), yerr=_errors(y), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
    axes.plot(xs, ys, LINES[index % len(LINES)], color=colour, linewidth=1.2, marker=marker, markersize=5, label=name)
    hollow = [i for i, arm in enumerate(shown) if arm.weights == "training-free"]
    axes.plot([xs[i] for i in hollow], [ys[i] for i in hollow], marker, color=colour, markerfacecolor="white", markersize=5)
    if accuracy:
        for arm, place, below in zip(shown, zip(xs, ys, strict=True), _crowded(xs, ys), strict=True):
            text, offset, side = f"{arm.ratio_requested:.2f}", (-4, -11) if below else (4, 5), "right" if below else "left"
            axes.annotate(text, place, offset, textcoords="offset points", fontsize="small", ha=side)


def render(figure: Figure, kind: str, style: str = "screen") -> bytes:
    """The figure as `png`, `pdf` or `svg`, equal bytes for equal input."""
    buffer = io.BytesIO()
    with drawing(style) as chosen:
        figure.savefig(buffer, format=kind, dpi=chosen.dpi, metadata=METADATA[kind])
    return buffer.getvalue()


def write_figure(figure: Figure, stem: Path, style: str = "screen") -> list[Path]:
    """Write `<stem>.png`, `.pdf` and `.svg`, making the folder if need be; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in METADATA]
    for path, kind in zip(paths, METADATA, strict=True):
        write_atomic(path, render(figure, kind, style))
    return paths
