"""The hub's parquet layout: a column of encoded images (`image.bytes`) and a column of class numbers (`label`)."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.source import Stamp
from rmeeto_bench.errors import DataError, UnavailableError

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
IMAGE_COLUMNS = ("image", "img", "jpg")
GROUPS_KEPT = 2  # row groups in memory per process: batches cross the border of one into the next


@dataclass(frozen=True)
class Group:
    """Rows `first` to `first + rows` of the set: one row group of a file, with `before` rows in the file ahead of it."""

    file: int
    group: int
    first: int
    rows: int
    before: int


@dataclass(frozen=True)
class ParquetSource:
    """A `Source` over parquet files."""

    name: str
    files: tuple[Stamp, ...]
    groups: tuple[Group, ...]
    firsts: NDArray[np.int64]
    column: str
    labels: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()
    _cache: OrderedDict[int, list[Any]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def _find(self, index: int) -> int:
        return int(np.searchsorted(self.firsts, index, side="right")) - 1

    def locate(self, index: int) -> str:
        """File and row."""
        group = self.groups[self._find(index)]
        return f"{self.files[group.file].path}:row {group.before + index - group.first}"

    def read(self, index: int) -> bytes:
        """The row's encoded image. Raises `ChangedError` if the file is not the one listed, `OSError` if it is damaged."""
        number = self._find(index)
        group = self.groups[number]
        self.files[group.file].check()
        if number not in self._cache:
            self._cache[number] = _read_group(self.files[group.file].path, group.group, self.column)
            while len(self._cache) > GROUPS_KEPT:
                self._cache.popitem(last=False)
        value = self._cache[number][index - group.first]
        return (value.get("bytes") if isinstance(value, dict) else value) or b""

    def changed(self) -> str | None:
        """A file that is not the one listed."""
        return next((reason for stamp in self.files if (reason := stamp.changed()) is not None), None)

    def __getstate__(self) -> dict[str, object]:
        """Without the rows in memory: each worker process reads its own."""
        return {**self.__dict__, "_cache": OrderedDict()}


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


def load(paths: list[Path], name: str, num_classes: int) -> ParquetSource:
    """List the rows of these files in their order; only the labels are read. Raises `DataError` or `UnavailableError`."""
    pyarrow = _pyarrow()
    stamps = tuple(Stamp.of(path) for path in paths)
    groups: list[Group] = []
    labels: list[NDArray[np.int64]] = []
    problems: list[Problem] = []
    column, first = IMAGE_COLUMNS[0], 0
    for number, path in enumerate(paths):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                column = _choose(schema.names, IMAGE_COLUMNS, "of images", path)
                label = _choose(schema.names, LABEL_COLUMNS, "of class numbers", path)
                classes = _class_names(schema.metadata, label)
                if classes is not None and len(classes) != num_classes:
                    raise DataError(f"{path} names {len(classes)} classes, the model has {num_classes}; give its own data set")
                values = file.read(columns=[label]).column(0).to_numpy()
                start = first
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    groups.append(Group(number, group, first, rows, first - start))
                    first += rows
        except (pyarrow.ArrowException, OSError) as error:
            problems.append(Problem(-1, str(path), f"damaged or cut short ({str(error).splitlines()[0]})"))
            continue
        if values.dtype.kind not in "iu":
            raise DataError(f"{path}: its {label} are no whole numbers, or some are missing; give the validation split")
        labels.append(values.astype(np.int64))
    joined = np.concatenate(labels) if labels else np.empty(0, np.int64)
    firsts = np.array([group.first for group in groups], np.int64)
    return ParquetSource(name, stamps, tuple(groups), firsts, column, joined, tuple(problems))
