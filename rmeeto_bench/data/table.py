"""Read tables of text as spreadsheets, pandas and shells write them: any separator, quotes, byte order marks, a header."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

SEPARATORS = ("\t", ";", ",")


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8 or, with its mark, UTF-16. Raises `OSError` or `UnicodeDecodeError`."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if marked else "utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines that hold something, without the space around them. Any line ending will do."""
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def columns(lines: Sequence[str]) -> list[list[str]] | None:
    """The cells of every line, split at the first separator that gives all lines equally many, at least two; else None."""
    for separator in SEPARATORS:
        try:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]
        except csv.Error:
            continue
        if len(rows) == len(lines) and rows and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1:
            return rows
    return None


def unquoted(cell: str) -> str:
    """A cell without its surrounding quotes."""
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def split_at_file(line: str, is_file: Callable[[str], bool]) -> list[str]:
    """The cells of a line that spaces separate: the file name may hold some, and so may a class name after it."""
    for match in re.finditer(r"[\s,;]+", line):
        if is_file(unquoted(line[: match.start()])):
            return [unquoted(line[: match.start()]), unquoted(line[match.end() :])]
    for match in reversed(list(re.finditer(r"[\s,;]+", line))):  # a file that is not there: the label is the last word
        return [unquoted(line[: match.start()]), unquoted(line[match.end() :])]
    return [unquoted(line)]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 2 before 10 within any text."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def folded(name: str) -> str:
    """A name reduced to its meaning: without case, marks between words, and the plural's s."""
    return re.sub(r"[\W_]+", "", name.casefold()).rstrip("s")
