"""The raw rows of merged runs: blocks and predictions copied into one database under lasting device ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import expected_tables, open_stored
from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.merge import Taken
from rmeeto_bench.records.run import DATABASE

FREE = (("data_set", "name"),)  # machines may keep one set of images under several names
VARIANT = "@"  # an arm's variants (noise inputs) are stored as NAME@VARIANT


@dataclass(frozen=True)
class _Rewrite:
    """Turns the rows of one table and one source into rows of the merged run."""

    columns: tuple[str, ...]  # of the table
    taken: Taken  # which rows of the source are taken, and the lasting ids of their devices
    first_session: dict[str, int]  # lasting device id -> number that the source's session 0 gets

    def _value(self, row: Sequence[Any], column: str) -> Any:
        return row[self.columns.index(column)] if column in self.columns else None

    def _lasting(self, row: Sequence[Any]) -> str | None:
        """The lasting id of the row's device if the row is taken, else None."""
        stored, arm = self._value(row, "device"), self._value(row, "arm")
        if arm is not None:
            return self.taken.rows.get((stored, str(arm).partition(VARIANT)[0]))
        if "model" not in self.columns:
            return next((id for (own, _), id in self.taken.rows.items() if own == stored), None)
        models = str(self._value(row, "model")).split("+")
        fitting = (id for (own, name), id in self.taken.rows.items() if own == stored and name.rpartition("/")[0] in models)
        return next(fitting, None)

    def rows(self, source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
        """The rows that are taken, under their new device and session."""
        for row in source.execute(f"SELECT {','.join(self.columns)} FROM {table}"):
            lasting = self._lasting(row)
            if lasting is None:
                continue
            values = dict(zip(self.columns, row))
            values["device"] = lasting
            if "session" in values:
                values["session"] += self.first_session.get(lasting, 0)
            yield tuple(values.values())


def _free_sessions(target: sqlite3.Connection) -> dict[str, int]:
    """Device -> the first session number not in use, so that sessions of several runs stay apart."""
    found: dict[str, int] = {}
    for table, columns in expected_tables().items():
        if "session" in columns:
            for device, last in target.execute(f"SELECT device, max(session) FROM {table} GROUP BY device"):
                found[device] = max(found.get(device, 0), last + 1)
    return found


def merge_raw(taken: Sequence[Taken], out: Path) -> list[str]:
    """Write the raw rows of all sources to a new database in `out`; returns a note for each source that has none.

    Raises `DataError` for a database that is damaged or not ours, or if `out` holds a run already.
    """
    notes = []
    Store.create(out).close()
    with closing(sqlite3.connect(out / DATABASE)) as target:
        for source in taken:
            if not source.rows:
                continue
            if not (source.folder / DATABASE).is_file():
                notes.append(f"{source.folder} has no {DATABASE}: its results are merged, its raw blocks are not")
                continue
            with open_stored(source.folder) as store, store.transaction() as connection, target:
                _copy(connection, target, source)
    return notes


def _copy(connection: sqlite3.Connection, target: sqlite3.Connection, source: Taken) -> None:
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    first_session = _free_sessions(target)
    for table, columns in expected_tables().items():
        if table in present:
            rows: Iterable[Sequence[Any]] = connection.execute(f"SELECT {','.join(columns)} FROM {table}")
            if "device" in columns:
                rows = _Rewrite(columns, source, first_session).rows(connection, table)
            try:
                _insert(target, table, columns, rows, source.folder / DATABASE)
            except (TypeError, sqlite3.IntegrityError) as error:
                raise DataError(f"{source.folder / DATABASE}: table {table} holds values no run has ({error})") from error


def _insert(target: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Add rows; one that is there already must be the same. Raises `DataError` naming the one that is not."""
    keys = [name for (name,) in target.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,))]
    marks, names = ",".join("?" * len(columns)), ",".join(columns)
    for row in rows:
        added = target.execute(f"INSERT OR IGNORE INTO {table}({names}) VALUES({marks})", tuple(row)).rowcount
        if added:
            continue
        values = dict(zip(columns, row, strict=True))
        where = " AND ".join(f"{key} IS ?" for key in keys)
        there = target.execute(f"SELECT {names} FROM {table} WHERE {where}", [values[key] for key in keys]).fetchone()
        pairs = zip(columns, row, there, strict=True)
        unlike = [name for name, mine, theirs in pairs if mine != theirs and (table, name) not in FREE]
        if unlike:
            key = ", ".join(f"{name} {str(values[name])[:60]}" for name in keys)
            raise DataError(
                f"{path}: table {table} has another {', '.join(unlike)} under {key} than a run merged before it; "
                "merge runs of one data set, or leave one out"
            )
