"""Fit every table to the width of the terminal: leave out or stack what matters least, never cut a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table

Cell = tuple[str, str]  # a value and its interval, which stands beside it or below it


@dataclass(frozen=True)
class FittedColumn:
    """A column of a table, under the name that its cells have in a row."""

    name: str  # over the column
    importance: int  # the least important goes first; below 0 never
    left: bool = False  # words, not numbers


NEVER = -1  # importance of a column without which the others say nothing


def _text(cell: Cell, joint: str) -> str:
    return joint.join(part for part in cell if part)


def _width(column: FittedColumn, rows: Sequence[Mapping[str, Cell]], joint: str) -> int:
    texts = [column.name, *(_text(row[column.name], joint) for row in rows)]
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _total(columns: Sequence[FittedColumn], rows: Sequence[Mapping[str, Cell]], joint: str, gap: int) -> int:
    return sum(_width(column, rows, joint) + gap for column in columns)


def fitted(
    title: str | None, columns: Sequence[FittedColumn], rows: Sequence[Mapping[str, Cell]], width: int
) -> tuple[Table, list[str]]:
    """The table, and the names of the columns that had no place.

    Intervals go below their values before a column is left out. Where not even the columns that must stay have a place
    beside each other, each value has a line.
    """
    shown, joint, gap = list(columns), " ", 2
    if _total(shown, rows, joint, gap) > width:
        joint, gap = "\n", 1
    while _total(shown, rows, joint, gap) > width:
        least = max(shown, key=lambda column: column.importance, default=None)
        if least is None or least.importance < 0:
            return _lines(title, shown, rows), [column.name for column in columns if column not in shown]
        shown.remove(least)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, gap, 0, 0))
    tallest = max((column.name.count("\n") for column in shown), default=0)
    for column in shown:
        heading = (tallest - column.name.count("\n")) * "\n" + column.name
        table.add_column(heading, justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(row[column.name], joint) for column in shown))
    return table, [column.name for column in columns if column not in shown]


def of_texts(
    title: str | None, rows: Sequence[Mapping[str, str]], width: int, *, left: Sequence[str] = (), first: Sequence[str] = ()
) -> Table:
    """A fitted table of plain texts, which may have several lines.

    left: columns of words · first: columns that may go, in the order in which they go. A row may lack a column.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [FittedColumn(name, len(first) - first.index(name) if name in first else NEVER, name in left) for name in names]
    return fitted(title, columns, [{name: (row.get(name, ""), "") for name in names} for row in rows], width)[0]


def _lines(title: str | None, columns: Sequence[FittedColumn], rows: Sequence[Mapping[str, Cell]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    for row in rows:
        for column in columns:
            heading = column.name.replace("-\n", "").replace("\n", " ")
            value, interval = row[column.name]
            for text in (f"{heading} {value}" if value else "", interval):
                if text:
                    table.add_row(text)
    return table
