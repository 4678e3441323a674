"""Text as text in every format: a name from a run's folder is never a formula, a tag, a link or a command."""

from __future__ import annotations

import html
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one
TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "—": "---",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "`": r"\textasciigrave{}",
    "\n": " ",
    "\t": " ",
}


def tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(TEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """Text of one line or cell that GitHub Markdown shows as it is."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return plain.replace("|", "\\|").replace("](", "]\\(").replace("![", "!\\[").replace("`", "\\`")


def csv_cell(value: Any) -> Any:
    """A value for a table that a spreadsheet may open: text that would be a formula gets an apostrophe before it."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
