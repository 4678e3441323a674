"""An item of the paper: its published numbers, what it takes to measure ours, and the finished table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rmeeto_bench.published import PaperRow
from rmeeto_bench.report.paper.sources import Sources


@dataclass(frozen=True)
class Ours:
    """Our value of a published number."""

    value: float  # in the unit of the published number
    match: str  # how similar the two measurements are, in words
    low: float | None = None  # lower end of the 95 % interval; None: no interval
    high: float | None = None  # upper end of the 95 % interval; None: no interval
    comparable: bool = True  # False for a stand-in, whose deviation would mean nothing


@dataclass(frozen=True)
class Needs:
    """What one must have to measure an item. All texts."""

    models: str  # names or kinds of models
    data: str = "ImageNet-1k validation set"  # images
    checkpoints: str = "public baselines"  # weights
    gpu: str = "any"  # kind of GPU

    @property
    def text(self) -> str:
        """All of it in one line."""
        return f"models: {self.models}; data: {self.data}; checkpoints: {self.checkpoints}; GPU: {self.gpu}"


Finder = Callable[[PaperRow, Sources], Ours | None]


def nothing(_row: PaperRow, _sources: Sources) -> Ours | None:
    """A `find` for numbers that this package cannot measure yet."""
    return None


@dataclass(frozen=True)
class PaperItem:
    """One table of the paper."""

    name: str  # printed number of the table, as in 1a
    title: str  # of the table
    needs: Needs  # what it takes to measure it
    find: Finder  # gives our value of a row, or None
    absent: str  # what is missing where `find` gives None, in one line
    rows: tuple[PaperRow, ...] = ()  # of the table, where the reference data has no number of it

    @property
    def label(self) -> str:
        """The name under which it is cited."""
        return f"Table {self.name}"


@dataclass(frozen=True)
class PaperLine:
    """One number of a table."""

    keys: tuple[str, ...]  # what it is of, a text per column of the table
    published: float | None  # value in the paper; None: not known
    unit: str  # of both values
    ours: Ours | None  # None: there is none


@dataclass(frozen=True)
class PaperTable:
    """An item filled in."""

    item: PaperItem  # the table
    caption: str  # what all lines have in common
    columns: tuple[str, ...]  # names of the keys of a line
    lines: tuple[PaperLine, ...]  # one for each number
    footnotes: tuple[str, ...] = ()  # one sentence each
    left_out: tuple[str, ...] = field(default=())  # stored results that may not stand beside the paper's, one line each

    @property
    def found(self) -> int:
        """How many numbers have one of ours beside them."""
        return sum(line.ours is not None for line in self.lines)

    @property
    def state(self) -> str:
        """One line that says how many numbers there are and what is missing."""
        published = sum(line.published is not None for line in self.lines)
        stand_ins = sum(line.ours is not None and not line.ours.comparable for line in self.lines)
        numbers = f"{published} published numbers, ours for {self.found}" + (f" ({stand_ins} stand-ins)" if stand_ins else "")
        return numbers if self.found == len(self.lines) else f"{numbers}; {self.item.absent}"
