"""What an item of the paper is: its published numbers, what it takes to have ours beside them, and the finished table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rmeeto_bench.published import PaperRow
from rmeeto_bench.report.paper.sources import Sources


@dataclass(frozen=True)
class Ours:
    """Our value of a published number with its 95 % interval, and how similar the two measurements are (`match`).
    `comparable` is False for a stand-in, whose deviation would mean nothing."""

    value: float
    match: str
    low: float | None = None
    high: float | None = None
    comparable: bool = True


@dataclass(frozen=True)
class Needs:
    """What one must have to measure an item."""

    models: str
    data: str = "ImageNet-1k validation set"
    checkpoints: str = "public baselines"
    gpu: str = "any"

    @property
    def text(self) -> str:
        """In one line."""
        return f"models: {self.models}; data: {self.data}; checkpoints: {self.checkpoints}; GPU: {self.gpu}"


Finder = Callable[[PaperRow, Sources], Ours | None]


def nothing(_row: PaperRow, _sources: Sources) -> Ours | None:
    """Ours for numbers that this package has no way to measure yet."""
    return None


@dataclass(frozen=True)
class Item:
    """One table of the paper by its printed number. `find` gives our value of a row; `lacks` says in one line what is
    missing where it gives none; `rows` are filled in where the reference data has no number of this table."""

    name: str
    title: str
    needs: Needs
    find: Finder
    lacks: str
    rows: tuple[PaperRow, ...] = ()

    @property
    def label(self) -> str:
        """As it is cited."""
        return f"Table {self.name}"


@dataclass(frozen=True)
class Line:
    """One number: what it is of (`keys`), the published value (None: not known), its unit, and ours."""

    keys: tuple[str, ...]
    published: float | None
    unit: str
    ours: Ours | None


@dataclass(frozen=True)
class PaperTable:
    """An item filled in: `columns` name the keys of its lines, `caption` holds what they have in common."""

    item: Item
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    footnotes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = field(default=())

    @property
    def found(self) -> int:
        """Numbers that have ours beside them."""
        return sum(line.ours is not None for line in self.lines)

    @property
    def state(self) -> str:
        """What is there, and what is lacking, in one line."""
        published = sum(line.published is not None for line in self.lines)
        stand_ins = sum(line.ours is not None and not line.ours.comparable for line in self.lines)
        numbers = f"{published} published numbers, ours for {self.found}" + (f" ({stand_ins} stand-ins)" if stand_ins else "")
        return numbers if self.found == len(self.lines) else f"{numbers}; {self.item.lacks}"
