"""Figures for a page: SVG whose points say what they are when pointed at, touched or reached by keyboard."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmeeto_bench.records.run import Arm
from rmeeto_bench.report.figures.style import render
from rmeeto_bench.report.run.tables import interval, rate_text

PAGE = {"#000000": "currentColor", "#ffffff": "var(--page)"}  # colours that follow the page into the dark
HIT = 14  # points; a finger's width on a phone needs more than the marker


def describe(arm: Arm, device: str) -> str:
    """One point in words."""
    merged = f", ratio {arm.reduction_ratio:.2f} (r = {arm.r})" if arm.token_counts else ""
    parts = [f"{device}, {arm.model}{merged}"]
    if arm.images_per_second is not None:
        parts.append(f"{rate_text(arm.images_per_second)} images/s {interval(arm.images_per_second, 0)}".rstrip())
    if arm.speedup is not None and not arm.is_baseline:
        parts.append(f"{arm.speedup.value:.3f}x {interval(arm.speedup, 3)}".rstrip())
    if arm.top1 is not None:
        parts.append(f"top-1 {arm.top1.value:.2f} % {interval(arm.top1, 2)}".rstrip())
    return "; ".join([*parts, arm.verdict])


def add_hit(axes: Axes, x: float, y: float, name: str) -> None:
    """An invisible target over a point, found in the SVG by its id."""
    axes.plot([x], [y], "o", markersize=HIT, alpha=0.0, gid=name, label="_hit")


def page_svg(figure: Figure, prefix: str, texts: Mapping[str, str]) -> Markup:
    """The figure as SVG for a page that holds several: ids with a prefix, no preamble, no comments (matplotlib repeats every
    text there, unescaped), and the targets of `add_hit` made to speak."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)  # the page shows through
    text = render(figure, "svg").decode("utf-8")
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, own in PAGE.items():
        text = text.replace(f": {colour}", f": {own}")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for name, words in texts.items():
        said = f'class="point" tabindex="0" role="img" aria-label="{escape(words)}"'
        text = text.replace(f'<g id="{prefix}-{name}">', f'<g id="{prefix}-{name}" {said}>', 1)
    return Markup(text)
