"""Check the values in a stored run's database: types, ranges, sizes and lengths that a run can have.

SQLite keeps any type in any column, so a database with the right tables may still hold text where a time belongs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmeeto_bench.bench.store.store import COLUMNS, Facts
from rmeeto_bench.checkpoints.trained import read_reduction
from rmeeto_bench.errors import UNPRINTABLE, DataError, UsageError
from rmeeto_bench.records.check import check, check_any

LONGEST_NAME = 1000  # characters of a device, an arm, a model, a status
LONGEST_TEXT = 100_000  # characters of a path or a reason
LONGEST_JSON = 1 << 20  # characters of a column of JSON
LARGEST_INTEGER = 1 << 40
LONGEST_SECONDS = 1e7  # of one block, four months
LARGEST_BATCH = 1 << 20  # images of one batch
MOST_ROWS = 5_000_000  # of one table
PIECE = 1 << 16  # rows read at once


@dataclass(frozen=True)
class Column:
    """What a column may hold."""

    kinds: tuple[str, ...]  # SQLite's names of types
    good: str  # an SQL condition on the value `{}`
    what: str  # the condition in words


def _integer(low: int, high: int = LARGEST_INTEGER) -> Column:
    return Column(("integer",), f"{{}} BETWEEN {low} AND {high}", f"a whole number from {low} to {high}")


def _text(longest: int = LONGEST_NAME, *, optional: bool = False) -> Column:
    kinds = ("text", "null") if optional else ("text",)
    return Column(kinds, f"({{0}} IS NULL OR length({{0}}) <= {longest})", f"text of at most {longest} characters")


def _blob(unit: int, most: int = LARGEST_BATCH) -> Column:
    condition = f"length({{0}}) % {unit} = 0 AND length({{0}}) <= {unit * most}"
    return Column(("blob",), condition, f"bytes, {unit} for each entry, of at most {most} entries")


NAME, COUNT, JSON = _text(), _integer(0), _text(LONGEST_JSON)
SECONDS = Column(("real", "integer"), f"{{0}} > 0 AND {{0}} <= {LONGEST_SECONDS}", "seconds above 0")
ARM = {"device": NAME, "session": COUNT, "arm": NAME}
TABLES: dict[str, dict[str, Column]] = {
    "session": {
        **{"device": NAME, "session": COUNT, "model": NAME, "kind": NAME, "status": NAME, "started": NAME},
        **{"ended": _text(optional=True), "pid": COUNT, "environment": JSON, "result": JSON},
    },
    "arm": {**ARM, "facts": JSON},
    "probe": {**ARM, "top1": _blob(2), "digest": NAME},
    "latency": {**ARM, "seconds": _blob(4)},
    "block": {
        **{"device": NAME, "session": COUNT, "round": COUNT, "position": COUNT, "arm": NAME},
        **{"steps": _integer(1), "images": _integer(1), "seconds": SECONDS, "wall_seconds": SECONDS},
        **{"rejected_reason": _text(LONGEST_TEXT, optional=True), "telemetry": JSON},
    },
    "prediction": {"device": NAME, "arm": NAME, "start": COUNT, "top5": _blob(10), "count": _integer(0, LARGEST_BATCH)},
    "confidence": {"device": NAME, "arm": NAME, "start": COUNT, "top1": _blob(2)},
    "pass": {"device": NAME, "arm": NAME, "data": NAME, "settings": JSON},
    "data_set": {"data": NAME, "name": _text(LONGEST_TEXT), "images": COUNT, "classes": COUNT},
    "seen": {"device": NAME, "data": NAME, "start": COUNT, "labels": _blob(2), "digests": _blob(8)},
    "problem": {
        **{"data": NAME, "image": _integer(-1), "path": _text(LONGEST_TEXT), "reason": _text(LONGEST_TEXT)},
        **{"skipped": _integer(0, 1)},
    },
}
# Table -> (condition on the whole row, in words)
ROWS = {
    "prediction": ("length(top5) = 10 * count", "ten bytes of top5 for each image that count says"),
    "seen": ("length(digests) IN (0, 4 * length(labels))", "a digest for each label"),
}


def _settings(value: Any, where: str) -> None:
    check_any(value, where)
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object of JSON")


def _facts(value: Any, where: str) -> None:
    _settings(value, where)
    try:
        facts = Facts.from_dict(value)
        _ = read_reduction(facts.reduction) if facts.reduction else None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UsageError) as error:
        raise DataError(f"{where} is no description of an arm ({type(error).__name__})") from error
    check(facts, Facts, where)


def _telemetry(value: Any, where: str) -> None:
    _settings(value, where)
    for name in ("energy_j", "energy_integrated_j"):
        if value.get(name) is not None:
            check(value[name], float, f"{where}.{name}")


def _result(value: Any, where: str) -> None:
    """What a session says of itself; a width that was never reached is infinite."""
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object of JSON")


CONTENT: dict[tuple[str, str], Callable[[Any, str], None]] = {
    ("session", "environment"): _settings,
    ("session", "result"): _result,
    ("arm", "facts"): _facts,
    ("block", "telemetry"): _telemetry,
    ("pass", "settings"): _settings,
}


def _refuse(path: Path, table: str, column: str, row: int, what: str) -> DataError:
    return DataError(f"{path}: table {table}, column {column}, row {row} {what}; no run holds that, it was tampered with")


def _shown(value: Any) -> str:
    """A short form of a value for one line."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return repr(value) if not isinstance(value, str) or len(value) <= 40 else f"{value[:40]!r}... of {len(value)} characters"


def _check_column(connection: sqlite3.Connection, path: Path, table: str, name: str, column: Column) -> None:
    kinds = ",".join(f"'{kind}'" for kind in column.kinds)
    good = column.good.format(name)
    query = f"SELECT rowid, CAST(typeof({name}) AS TEXT) FROM {table} WHERE typeof({name}) NOT IN ({kinds}) LIMIT 1"
    found = connection.execute(query).fetchone()
    if found is not None:
        raise _refuse(path, table, name, found[0], f"holds {found[1]}, not {column.what}")
    found = connection.execute(f"SELECT rowid, {name} FROM {table} WHERE NOT coalesce({good}, 0) LIMIT 1").fetchone()
    if found is not None:
        raise _refuse(path, table, name, found[0], f"holds {_shown(found[1])}, not {column.what}")


def _pieces(connection: sqlite3.Connection, table: str, column: str) -> Iterator[tuple[int, Any]]:
    cursor = connection.execute(f"SELECT rowid, {column} FROM {table}")
    while rows := cursor.fetchmany(PIECE):
        yield from rows


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    """Columns of JSON, and times of single steps."""
    for (table, column), judge in CONTENT.items():
        for row, text in _pieces(connection, table, column):
            try:
                judge(json.loads(text), column)
            except (DataError, ValueError, RecursionError) as error:
                raise _refuse(path, table, column, row, f"is damaged ({type(error).__name__}: {error!s:.120})") from error
    for row, data in _pieces(connection, "latency", "seconds"):
        values = np.frombuffer(data, "<f4")
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise _refuse(path, "latency", "seconds", row, "holds a time that is not above 0")


def _check_names(connection: sqlite3.Connection, path: Path) -> None:
    """Names of devices and arms stand in tables and figures: no control characters."""
    for table, column in (("block", "device"), ("block", "arm"), ("session", "device"), ("session", "model"), ("arm", "arm")):
        for (name,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
            if UNPRINTABLE.search(name):
                raise DataError(f"{path}: table {table}, column {column} holds control characters; it was tampered with")


def check_values(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `DataError` naming table, column and row of the first value that no run has. `path` is for the message."""
    assert tuple(TABLES["block"]) == COLUMNS
    for table, columns in TABLES.items():
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        if count > MOST_ROWS:
            raise DataError(f"{path}: table {table} has {count} rows, a run has at most {MOST_ROWS}; it is not read")
        try:
            for name, column in columns.items():
                _check_column(connection, path, table, name, column)
        except sqlite3.OperationalError as error:  # text that is no UTF-8, for one
            raise DataError(f"{path}: table {table} cannot be read ({error!s:.120}); it was tampered with") from error
        if table in ROWS:
            condition, words = ROWS[table]
            found = connection.execute(f"SELECT rowid FROM {table} WHERE NOT ({condition}) LIMIT 1").fetchone()
            if found is not None:
                raise _refuse(path, table, condition.partition("(")[2].partition(")")[0], found[0], f"does not have {words}")
    _check_names(connection, path)
    _check_content(connection, path)
