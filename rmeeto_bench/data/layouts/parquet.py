"""The hub's parquet layout: a column of encoded images (`image.bytes`) and a column of class numbers (`label`)."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.class_map import known_classes
from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.tar_shards import MOST_BYTES
from rmeeto_bench.data.numbering import Classes, shown
from rmeeto_bench.data.source import Stamp
from rmeeto_bench.errors import DataError, UnavailableError, printable

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
IMAGE_COLUMNS = ("image", "img", "jpg")
GROUPS_KEPT = 2  # row groups in memory per process: batches cross the border of one into the next


@dataclass(frozen=True)
class Group:
    """One row group of a file, which holds the rows `first` to `first + rows` of the set."""

    file: int  # index of the file
    group: int  # index of the row group in the file
    first: int  # index in the set of its first row
    rows: int  # number of rows
    before: int  # rows ahead of it in the file
    # The file's column of images.
    column: str


@dataclass(frozen=True)
class ParquetSource:
    """A `Source` over parquet files."""

    name: str  # what a report calls it
    files: tuple[Stamp, ...]  # as they were when listed
    groups: tuple[Group, ...]  # row groups, in the order of the set
    firsts: NDArray[np.int64]  # int64, `first` of each group
    labels: NDArray[np.int64]  # int64 [N]
    problems: tuple[Problem, ...] = ()  # found when it was listed
    notes: tuple[str, ...] = ()  # sentences about what was decided
    # group -> its images; the last few read
    _cache: OrderedDict[int, list[Any]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def _find(self, index: int) -> int:
        return int(np.searchsorted(self.firsts, index, side="right")) - 1

    def locate(self, index: int) -> str:
        """File and row."""
        group = self.groups[self._find(index)]
        return printable(f"{self.files[group.file].path}:row {group.before + index - group.first}")

    def read(self, index: int) -> bytes:
        """The row's encoded image. Raises `ChangedError` if the file is not the one listed, `OSError` if it is damaged."""
        number = self._find(index)
        group = self.groups[number]
        self.files[group.file].check()
        if number not in self._cache:
            self._cache[number] = _read_group(self.files[group.file].path, group.group, group.column)
            while len(self._cache) > GROUPS_KEPT:
                self._cache.popitem(last=False)
        value = self._cache[number][index - group.first]
        return _bytes(value, self.files[group.file].path.parent)

    def changed(self) -> str | None:
        """The first file that changed since the listing, as a sentence, or None."""
        return next((reason for stamp in self.files if (reason := stamp.changed()) is not None), None)

    def __getstate__(self) -> dict[str, object]:
        """The state without cached rows: each worker process reads its own."""
        return {**self.__dict__, "_cache": OrderedDict()}


def _bytes(value: Any, folder: Path) -> bytes:
    """The encoded image in a row, or in the file that the row names. Raises `OSError`."""
    data, named = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, str):
        data, named = None, data
    if data or not named:
        return data or b""
    path = folder / str(named)
    shown = printable(str(path))
    if not path.is_file():
        raise OSError(f"the row holds no image, and the file it names, {shown}, is not there")
    if path.stat().st_size > MOST_BYTES:
        raise OSError(f"the file it names, {shown}, is too large for an image")
    return path.read_bytes()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnavailableError("reading parquet needs pyarrow; pip install 'rmeeto-bench[data]'") from error
    return pyarrow


def _read_group(path: Path, group: int, column: str) -> list[Any]:
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[column]).column(0).to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(f"row group {group} is damaged ({str(error).splitlines()[0]})") from error


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """The names in class order that the hub's library leaves in the schema, or None."""
    try:
        value = json.loads((metadata or {})[b"huggingface"])
        return list(value["info"]["features"][column]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _choose(names: list[str], wanted: tuple[str, ...], what: str, path: Path) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise DataError(f"{path} has the columns {', '.join(names)}, none of them {what} ({', '.join(wanted)}); check --data")
    return found


def _labels(values: Any, names: list[str] | None, path: Path, classes: Classes) -> tuple[NDArray[np.int64], str | None]:
    """(class numbers int64 [N], what was decided) of a column of numbers, of numbers of the file's own names, or of names."""
    empty = values.null_count
    if empty:
        raise DataError(f"{path}: {empty} of {len(values)} rows have no label; give the validation split")
    words = values.to_pylist()
    if words and all(isinstance(word, str) for word in words):
        numbering = classes.number_all(words, str(path))
    elif not all(isinstance(word, int) and not isinstance(word, bool) for word in words):
        raise DataError(f"{path}: its labels are no whole numbers and no names; give the validation split")
    elif names is None:
        texts = [str(word) for word in words]
        given = classes if classes.given is not None and min(words, default=0) >= 0 else None
        if given is None:
            return np.array(words, np.int64), None
        numbering, words = given.number_all(texts, str(path)), texts
    else:
        return _by_names(np.array(words, np.int64), names, path, classes)
    return np.array([numbering.label_of[word] for word in words], np.int64), numbering.note


def _by_names(
    numbers: NDArray[np.int64], names: list[str], path: Path, classes: Classes
) -> tuple[NDArray[np.int64], str | None]:
    """Translate a file's own class numbers, whose names it gives, into the model's."""
    known = classes.given or known_classes(classes.count)
    found = [None if known is None else known.find(name) for name in names]
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
        raise DataError(
            f"{path} has labels from {numbers.min()} to {numbers.max()}, but {len(names)} class names; check --data"
        )
    if classes.given is not None or (names and all(index is not None for index in found)):
        used = np.unique(numbers).tolist()
        unknown = [names[number] for number in used if found[number] is None]
        if unknown:
            raise DataError(f"{path}: the class map does not know its {shown(unknown)}; give the model's --class-map FILE")
        return np.array([-1 if index is None else index for index in found], np.int64)[numbers], None
    if len(names) != classes.count:
        raise DataError(
            f"{path} names {len(names)} classes, the model has {classes.count}; give its own data set, or --class-map FILE"
        )
    if any(index is not None and index != number for number, index in enumerate(found)):
        wrong = [names[number] for number, index in enumerate(found) if index is not None and index != number]
        raise DataError(f"{path} numbers {shown(wrong)} unlike the model; give --class-map FILE")
    if any(index is not None for index in found):
        return numbers, None
    return numbers, printable(f"the classes of {path.name} keep its own numbers, {shown(names)}; --class-map FILE changes that")


def load(paths: list[Path], name: str, classes: Classes) -> ParquetSource:
    """List the rows of these files in their order; only the labels are read. Raises `DataError` or `UnavailableError`."""
    pyarrow = _pyarrow()
    stamps = tuple(Stamp.of(path) for path in paths)
    groups: list[Group] = []
    labels: list[NDArray[np.int64]] = []
    problems: list[Problem] = []
    notes: dict[str, None] = {}
    first = 0
    for number, path in enumerate(paths):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
                column = _choose(schema.names, IMAGE_COLUMNS, "of images", path)
                label = _choose(schema.names, LABEL_COLUMNS, "of class numbers", path)
                values = file.read(columns=[label]).column(0)
        except (pyarrow.ArrowException, OSError) as error:
            reason = printable(f"damaged or cut short ({str(error).splitlines()[0]})")
            problems.append(Problem(-1, printable(str(path)), reason))
            continue
        others = [other for other in LABEL_COLUMNS if other in schema.names and other != label]
        if others:
            notes[printable(f"the labels of {path.name} are its column {label}, not {', '.join(others)}")] = None
        found, note = _labels(values, _class_names(schema.metadata, label), path, classes)
        labels.append(found)
        if note is not None:
            notes[note] = None
        start = first
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            groups.append(Group(number, group, first, rows, first - start, column))
            first += rows
    joined = np.concatenate(labels) if labels else np.empty(0, np.int64)
    firsts = np.array([group.first for group in groups], np.int64)
    return ParquetSource(printable(name), stamps, tuple(groups), firsts, joined, tuple(problems), tuple(notes))
