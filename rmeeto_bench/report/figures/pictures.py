"""Pictures of merged tokens: what was merged has one colour, its mean, and an outline; what was not stays a photograph.

Plain arrays in, plain arrays out. Two regions with outlines of one hue are one token, also across the frames of a clip.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rmeeto_bench.files import new_file

Pixels = NDArray[np.uint8]
Groups = NDArray[np.int64]
FILL = 0.8  # share of the group's mean colour in a merged region; the rest is the photograph
DROPPED = -1
GOLDEN = 0.61803398875


def group_map(source: NDArray[np.floating], cls_position: int, steps: int = 1) -> Groups:
    """Which token each patch ended in, [steps, rows, cols], from a source map [L, L_0] of 0 and 1.

    The class token's column is dropped at its true place: the middle in a Vim, the front in a VideoMamba or DeiT. A patch
    that no token holds (pruned) gets -1.
    """
    patches = np.delete(np.asarray(source), cls_position, axis=1)
    groups = np.where(patches.any(axis=0), patches.argmax(axis=0), DROPPED)
    side = round((groups.size // steps) ** 0.5)
    return groups.reshape(steps, side, side)


def merged_pictures(frames: list[Pixels], groups: Groups) -> list[Pixels]:
    """The frames [H, W, 3] with their tokens drawn in. groups [frames or fewer, rows, cols]: a tubelet spans several frames."""
    spans = len(frames) // len(groups)
    maps = [np.asarray(_enlarged(groups[i // spans], frame.shape[:2])) for i, frame in enumerate(frames)]
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    colours = _mean_colours(frames, maps, len(sizes))
    return [_draw(frame, where, colours, sizes) for frame, where in zip(frames, maps, strict=True)]


def _enlarged(groups: Groups, shape: tuple[int, ...]) -> Groups:
    rows = np.arange(shape[0]) * groups.shape[0] // shape[0]
    cols = np.arange(shape[1]) * groups.shape[1] // shape[1]
    return groups[rows][:, cols]


def _mean_colours(frames: list[Pixels], maps: list[Groups], count: int) -> NDArray[np.float64]:
    """Mean colour of every token over all its pixels, [count, 3]."""
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames]).astype(np.float64)
    index = np.concatenate([where.ravel() for where in maps])
    inside = index >= 0
    total = np.bincount(index[inside], minlength=count)
    sums = [np.bincount(index[inside], pixels[inside, c], minlength=count) for c in range(3)]
    return np.stack(sums, axis=1) / np.maximum(total, 1)[:, None]


def _hue(token: int) -> NDArray[np.float64]:
    """A colour of its own for a token's outline: hues a golden angle apart are never close for neighbours."""
    return 255 * np.array(colorsys.hsv_to_rgb(token * GOLDEN % 1, 0.65, 1.0))


def _draw(frame: Pixels, where: Groups, colours: NDArray[np.float64], sizes: NDArray[np.int64]) -> Pixels:
    out = frame.astype(np.float64)
    merged = (where >= 0) & (sizes[np.maximum(where, 0)] > 1)
    out[merged] = FILL * colours[where[merged]] + (1 - FILL) * out[merged]
    out[where < 0] *= 0.2  # what was dropped goes dark
    edge = _inner_edge(where, max(1, frame.shape[0] // 320)) & merged
    outline = np.stack([_hue(token) for token in range(len(sizes))])
    out[edge] = 0.75 * outline[where[edge]] + 0.25 * out[edge]
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def _inner_edge(where: Groups, width: int) -> NDArray[np.bool_]:
    """Pixels within `width` of another token's region, but not at the picture's rim."""
    edge = np.zeros(where.shape, bool)
    for shift in range(1, width + 1):
        edge[shift:] |= where[shift:] != where[:-shift]
        edge[:-shift] |= where[:-shift] != where[shift:]
        edge[:, shift:] |= where[:, shift:] != where[:, :-shift]
        edge[:, :-shift] |= where[:, :-shift] != where[:, shift:]
    return edge


def beside(pictures: list[Pixels], gap: int = 8) -> Pixels:
    """Pictures of one height in a row, white between them."""
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)]
    return np.concatenate(parts[:-1], axis=1)


def save_picture(pixels: Pixels, path: Path) -> None:
    """Write an image file, in the format of its ending."""
    with new_file(path) as temporary:
        Image.fromarray(pixels).save(temporary)


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet."""

    pixels: Pixels  # [H, W, 3]
    caption: str  # written over it


def contact_sheet(rows: list[list[Panel]], path: Path, title: str) -> None:
    """All pictures on one page, a row for each image or clip; PNG, JPEG or PDF by the name's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from rmeeto_bench.report.figures.style import drawing

    with drawing("screen"):
        columns, side = max(len(row) for row in rows), 2.3
        heading = 0.35
        figure = Figure(figsize=(side * columns, (side + 0.28) * len(rows) + heading), dpi=200)
        FigureCanvasAgg(figure)
        height = figure.get_size_inches()[1]
        top = 1 - heading / height
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for r, row in enumerate(rows):
            for c, axes in enumerate(grid[r]):
                axes.axis("off")
                if c < len(row):
                    axes.imshow(row[c].pixels, interpolation="none")
                    axes.set_title(row[c].caption, fontsize=7, pad=3)
        margins = {"left": 0.005, "right": 0.995, "bottom": 0.005, "top": top - 0.2 / height}
        figure.subplots_adjust(**margins, wspace=0.03, hspace=0.12)
        figure.suptitle(title, fontsize=8, y=1 - 0.1 / height, va="top")
        with new_file(path) as temporary:
            figure.savefig(temporary)
