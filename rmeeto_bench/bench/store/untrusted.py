"""Reading databases of strangers: never written to, and nothing in them but the tables this package makes."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from rmeeto_bench.bench.store.store import SCHEMA, VERSION, other_version
from rmeeto_bench.errors import DataError, UnavailableError
from rmeeto_bench.records.run import DATABASE

LARGEST = 2 << 30  # bytes; an hour of blocks of 16 GPUs and the predictions of 50,000 images for 40 arms are some 30 MB
LONGEST_VALUE = 64 << 20  # bytes of one blob or text
LONGEST_SQL = 100_000


@cache
def expected_tables() -> dict[str, tuple[str, ...]]:
    """Table -> its columns, as this version makes them."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return _tables(connection)


def _tables(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
    found = {}
    for name in names:
        rows = connection.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
        found[name] = tuple(column for (column,) in rows)
    return found


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `DataError` unless the schema is ours: no views, triggers, virtual tables, foreign columns or generated ones."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise DataError(f"{path} has layout {version}, this version reads layout {VERSION}; {other_version(version)}")
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "index" and sql is None:
            continue  # made by SQLite for a primary key
        if kind != "table" or name not in expected_tables() or not sql.upper().startswith("CREATE TABLE"):
            raise DataError(f"{path} holds the {kind} {name!r}, which no run has; it was tampered with and is not read")
    for name, columns in _tables(connection).items():
        if columns != expected_tables()[name]:
            raise DataError(f"{path}: table {name} has columns {', '.join(columns)[:80]}; it was tampered with and is not read")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DataError(f"{path} is damaged ({verdict}); copy it again from the machine that measured")


@contextmanager
def open_foreign(folder: Path) -> Iterator[sqlite3.Connection]:
    """A checked, query-only connection to a copy of a run's database (so that its journal can be replayed and the original
    stays untouched). Raises `DataError` for one that is missing, damaged or not ours."""
    path = folder / DATABASE
    if not path.is_file():
        raise DataError(f"{folder} holds no {DATABASE}; give the folder of a run")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} is larger than any run ({path.stat().st_size >> 20} MiB); it is not read")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            copy = Path(shutil.copyfile(path, Path(scratch) / DATABASE))
            journal = path.with_name(path.name + "-wal")
            if journal.is_file() and journal.stat().st_size <= LARGEST:
                shutil.copyfile(journal, copy.with_name(copy.name + "-wal"))
        except OSError as error:
            raise UnavailableError(f"cannot copy {path} to read it ({error.strerror}); free some disk space") from error
        with closing(sqlite3.connect(copy)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
            connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, LONGEST_SQL)
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            try:
                connection.execute("PRAGMA trusted_schema=OFF")
                connection.execute("PRAGMA cell_size_check=ON")
                connection.execute("PRAGMA query_only=ON")
                _check(connection, path)
                yield connection
            except sqlite3.DatabaseError as error:
                raise DataError(f"{path} is no rmeeto-bench run ({error})") from error
