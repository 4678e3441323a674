"""Names at the lines of a figure and values at its points, placed where no error bar, line or other label covers them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation

WIDTH = {"screen": 22, "paper": 14}  # characters of a name on one line, by the style of the figure
GAP = 5.0  # points between a point and its label
ASIDE = 2.0  # points between a leader from below and the name beside it
PITCH = 1.2  # distance of two names, in heights of a name
# Where a label may stand: its offset from the point in units of GAP, and which of its edges is there; the first is preferred.
PLACES = (
    *((1, 1, "left", "bottom"), (-1, 1, "right", "bottom"), (1, -1, "left", "top"), (-1, -1, "right", "top")),
    *((0, 2, "center", "bottom"), (0, -2, "center", "top"), (1, 4, "left", "bottom"), (-1, -4, "right", "top")),
    *((2, 0, "left", "center"), (4, 1, "left", "bottom"), (4, -1, "left", "top"), (8, 0, "left", "center")),
)


@dataclass(frozen=True)
class Name:
    """What a line is called, and the point of the line that a thin leader joins to the name."""

    text: str  # as written; "": none
    x: float  # of the point, in data units
    y: float  # of the point, in data units
    colour: str  # of the line


def short(name: str, width: int) -> str:
    """A device's name without its maker, on at most two lines of `width` characters."""
    for noise in ("NVIDIA ", "GeForce ", "(R)", "(TM)", " Processor", " CPU"):
        name = name.replace(noise, "")
    return "\n".join(textwrap.wrap(name.strip(), width, max_lines=2, placeholder=" …"))


def _leader(colour: str, start: tuple[float, float]) -> dict[str, object]:
    """`start`: where on the name it begins, in fractions of the name's width and height."""
    return {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3, "relpos": start}


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _settle(axes: Axes) -> None:
    """Give the axes their final place and scale, so that a data unit has a place on the page."""
    _figure(axes).draw_without_rendering()


def _extent(text: Text) -> Bbox:
    return Text.get_window_extent(text)  # of the words alone, without an annotation's leader


def beside(axes: Axes, names: Sequence[Name]) -> None:
    """Names in a column right of the axes, each level with its point or as near as its neighbours let it.

    The figure becomes higher where the column needs it.
    """
    names = sorted((name for name in names if name.text), key=lambda name: name.y)
    texts = [
        axes.annotate(
            *(name.text, (name.x, name.y), (1.06, 0.5), "data", "axes fraction"),
            arrowprops=_leader(name.colour, (0, 0.5)),
            fontsize="small",
            va="center",
        )
        for name in names
    ]
    if not texts:
        return
    _settle(axes)
    heights = np.array([_extent(text).height for text in texts]) * PITCH
    missing = heights.sum() - axes.bbox.height
    if missing > 0:
        _grow(axes, missing * len(_figure(axes).axes))  # which share it
        _settle(axes)
    places = axes.transAxes.inverted().transform(axes.transData.transform([(name.x, name.y) for name in names]))[:, 1]
    for text, place in zip(texts, _spread(places, heights / axes.bbox.height), strict=True):
        text.set_y(place)


def _grow(axes: Axes, pixels: float) -> None:
    """Make the figure higher."""
    figure = _figure(axes)
    figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + pixels / figure.dpi)


def _spread(wanted: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The places nearest to `wanted` (ascending) that leave each its height: neighbours too close move apart by equal parts."""
    above_first = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    groups: list[list[float]] = []
    for value in wanted - above_first:
        groups.append([float(value)])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    lowest = heights[0] / 2
    return np.clip(places, lowest, max(lowest, 1 - above_first[-1] - heights[-1] / 2)) + above_first


def above(axes: Axes, names: Sequence[Name]) -> None:
    """Names over the axes, each starting straight above its point; in rows, so that no leader crosses another name.

    The x axis becomes longer where the name of a point at the right needs it, the figure higher by the rows.
    """
    names = sorted((name for name in names if name.text), key=lambda name: -name.x)
    if not names:
        return
    texts = [axes.text(name.x, 1, name.text, transform=axes.get_xaxis_transform(), fontsize="small") for name in names]
    for text in texts:
        text.set_in_layout(False)  # the axes keep their width
    _settle(axes)
    whole, scale, high = axes.bbox.width, axes.transScale, max(_extent(text).height for text in texts)
    widths = [_extent(text).width for text in texts]
    low, right = (float(scale.transform((x, 1))[0]) for x in axes.get_xlim())
    for name, width in zip(names, widths, strict=True):
        start = float(scale.transform((name.x, 1))[0])
        right = max(right, low + (start - low) / (1 - min(0.9, width / whole)))
    axes.set_xlim(right=float(scale.inverted().transform((right, 1))[0]))
    starts = [float(axes.transData.transform((name.x, 1))[0]) for name in names]
    rows: list[int] = []
    for i, (start, width) in enumerate(zip(starts, widths, strict=True)):
        rows.append(1 + max((rows[j] for j in range(i) if starts[j] < start + width + 6), default=-1))
    _grow(axes, PITCH * high * max(rows))
    figure = _figure(axes)
    for name, text, width, row in zip(names, texts, widths, rows, strict=True):
        text.remove()
        up = ScaledTranslation(ASIDE / 72, PITCH * high * (0.3 + row) / figure.dpi, figure.dpi_scale_trans)
        axes.annotate(
            *(name.text, (name.x, name.y), (name.x, 1), "data", axes.get_xaxis_transform() + up),
            arrowprops=_leader(name.colour, (-ASIDE * figure.dpi / 72 / width, 0)),
            fontsize="small",
        )


def at_points(axes: Axes, labels: Sequence[tuple[str, float, float]]) -> None:
    """Small labels (text, x, y) next to their points, each where the least of what is drawn lies under it, and of such places
    at one that is nearest to its own point."""
    texts = [axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize="x-small") for text, x, y in labels]
    for text in texts:
        text.set_in_layout(False)
    _settle(axes)
    ink, taken, right = _ink(axes), list[Bbox](), _figure(axes).bbox.x1
    points = axes.transData.transform([(x, y) for _, x, y in labels])  # [n, 2]
    for i, text in enumerate(texts):
        best: tuple[float, Bbox, tuple[int, int, str, str]] | None = None
        for place in PLACES:
            _put(text, place)
            box = _extent(text).padded(2)
            inside = np.all((ink > box.min) & (ink < box.max), axis=1).sum()
            others = sum(other.overlaps(box) for other in taken)
            outside = not (axes.bbox.x0 < box.x0 and box.x1 < right and axes.bbox.y0 < box.y0 < axes.bbox.y1)
            apart = np.linalg.norm(points - points.clip(box.min, box.max), axis=1)  # of the points from the label
            cost = float(inside) + 1000.0 * (others + outside) + 0.5 * bool((apart < apart[i]).any())
            if best is None or cost < best[0]:
                best = cost, box, place
        assert best is not None
        _put(text, best[2])
        taken.append(best[1])


def _put(text: Text, place: tuple[int, int, str, str]) -> None:
    right, up, horizontal, vertical = place
    text.set(position=(GAP * right, GAP * up), ha=horizontal, va=vertical)


def _ink(axes: Axes) -> np.ndarray:
    """Points of the page along everything drawn, curves and error bars. [n, 2]"""
    curves = [line for line in axes.lines if line.get_linestyle() != "None"]  # caps and hollow markers lie on the others
    drawn = [(line.get_path(), line.get_transform()) for line in curves]
    drawn += [(path, bars.get_transform()) for bars in axes.collections for path in bars.get_paths()]
    found = [np.asarray(transform.transform_path(path.interpolated(40)).vertices) for path, transform in drawn]
    return np.concatenate(found) if found else np.empty((0, 2))
