"""What all figures share: sizes, fonts, colours, and files of the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rmeeto_bench.files import write_atomic

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
    """How large a figure is."""

    width: float  # in inches
    height: float  # in inches, before rows of names over the axes
    font: float  # size in points
    dpi: int = 200  # resolution of a PNG


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
