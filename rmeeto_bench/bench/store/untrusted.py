"""Read the database of a stored run from anywhere: copy it, check it, and only then read it.

SQLite writes to a database that it reads in place: it replays a journal beside the file, and a forged journal makes it delete
the file that the journal names. So the database and its journal are copied to a private folder, and the original is never
opened.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

from rmeeto_bench.bench.store.store import SCHEMA, VERSION, Store, other_version
from rmeeto_bench.bench.store.values import check_values
from rmeeto_bench.errors import DataError, UnavailableError
from rmeeto_bench.records.run import DATABASE

LARGEST = 512 << 20  # bytes, journal included; an hour of blocks of 16 GPUs and 50,000 images for 40 arms are some 30 MB
LONGEST_VALUE = 64 << 20  # bytes of one blob or text
LONGEST_SQL = 100_000
WAL, ROLLBACK = "-wal", "-journal"  # endings of the two kinds of journal
NAMES_ANOTHER_FILE = bytes.fromhex("d9d505f920a163d7")  # at the end of a rollback journal that does
TRIES = 20  # to copy a database while its run writes to it


class NotMadeYetError(DataError):
    """A database without anything in it: the making of its run was cut short."""


@cache
def expected_tables() -> dict[str, tuple[str, ...]]:
    """Table -> its columns, as this version makes them."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")]
        return {
            name: tuple(column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,)))
            for name in names
        }


@cache
def _expected_schema() -> frozenset[tuple[str, str, str | None]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return frozenset(connection.execute("SELECT type, name, sql FROM sqlite_master"))


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `DataError` unless the schema is ours to the letter: no views, triggers, virtual tables or generated columns."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    found = set(connection.execute("SELECT type, name, sql FROM sqlite_master"))
    if not found and version == 0:
        raise NotMadeYetError(f"{path} holds no tables, so layout 0 and no run; give the folder of a run")
    if version != VERSION:
        raise DataError(f"{path} has layout {version}, this version reads layout {VERSION}; {other_version(version)}")
    for kind, name, _ in sorted(found - _expected_schema(), key=str):
        raise DataError(f"{path} holds the {kind} {str(name)[:80]!r} that no run has; it was tampered with and is not read")
    for kind, name, _ in sorted(_expected_schema() - found, key=str):
        raise DataError(f"{path} lacks the {kind} {name!r} of a run; copy it again from the machine that measured")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DataError(f"{path} is damaged ({verdict}); copy it again from the machine that measured")


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _copy_files(path: Path, copy: Path) -> None:
    """The database with its journals, as they were at one moment: a checkpoint of its run in between makes it start again."""
    for _ in range(TRIES):
        before = _state(path)
        parts = [found for found in (path, *(path.with_name(path.name + end) for end in (WAL, ROLLBACK))) if found.is_file()]
        if sum(part.stat().st_size for part in parts) > LARGEST:
            raise DataError(f"{path} is larger than any run (more than {LARGEST >> 20} MiB); it is not read")
        for part in parts:
            try:
                shutil.copyfile(part, copy.with_name(part.name))
            except FileNotFoundError:
                copy.with_name(part.name).unlink(missing_ok=True)  # the run just ended and took its journal away
        if _state(path) == before:
            return
        time.sleep(0.05)
    raise UnavailableError(f"{path} is being written to; try again in a moment")


def _settle(copy: Path, path: Path) -> None:
    """Play the journal into the copy, so that one file holds everything."""
    journal = copy.with_name(copy.name + ROLLBACK)
    if journal.is_file() and journal.read_bytes()[-len(NAMES_ANOTHER_FILE) :] == NAMES_ANOTHER_FILE:
        raise DataError(f"{path}{ROLLBACK} names another file, which no run's journal does; it was tampered with, delete it")
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        raise DataError(f"{path}{WAL} cannot be read; copy the run again from the machine that measured")


@contextmanager
def private_copy(folder: Path) -> Iterator[Path]:
    """A whole copy of a run's database in one file. Raises `DataError` for one that is missing, damaged or not ours."""
    path = folder / DATABASE
    if not path.is_file():
        raise DataError(f"{folder} holds no {DATABASE}; give the folder of a run")
    with tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as scratch:
        copy = Path(scratch) / DATABASE
        try:
            _copy_files(path, copy)
        except PermissionError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
        except OSError as error:
            raise UnavailableError(f"cannot copy {path} to read it ({error.strerror}); free some disk space") from error
        try:
            _settle(copy, path)
            with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
                _restrict(connection)
                _check_schema(connection, path)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no rmeeto-bench run ({error})") from error
        yield copy


def _restrict(connection: sqlite3.Connection) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, LONGEST_SQL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA query_only=ON")


@contextmanager
def open_stored(folder: Path) -> Iterator[Store]:
    """The store of a run's folder, to read: a checked copy, so that the original stays as it is even while its run writes.

    Raises `DataError` for a database that is missing, damaged, not ours or holds values that no run has.
    """
    with private_copy(folder) as copy, closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        _restrict(connection)
        store = Store(folder / DATABASE, connection)
        with store.transaction():
            check_values(connection, folder / DATABASE)
        yield store


@contextmanager
def open_if_kept(folder: Path) -> Iterator[Store | None]:
    """The same, None where only the manifest of a run was kept."""
    if not (folder / DATABASE).is_file():
        yield None
        return
    with open_stored(folder) as store:
        yield store


def check_stored(folder: Path) -> None:
    """Raise what `open_stored` raises, before a run is continued and its database is opened to write to.

    A run whose making was cut short has no database yet, or an empty one.
    """
    if (folder / DATABASE).is_file():
        with suppress(NotMadeYetError), open_stored(folder):
            pass
