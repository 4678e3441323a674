"""The raw data of a run in one SQLite file: every block and every prediction, kept the moment it exists."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.errors import DataError, UnavailableError
from rmeeto_bench.records import DATABASE, Block

VERSION = 1
SCHEMA = """
CREATE TABLE block(device TEXT, session INTEGER, round INTEGER, position INTEGER, arm TEXT, steps INTEGER,
  images INTEGER, seconds REAL, wall_seconds REAL, rejected_reason TEXT, telemetry TEXT,
  PRIMARY KEY(device, session, round, arm));
CREATE TABLE prediction(device TEXT, arm TEXT, start INTEGER, top5 BLOB, count INTEGER,
  PRIMARY KEY(device, arm, start));
"""
COLUMNS = tuple(column.name for column in fields(Block))


class Store:
    """One run's database. Use as a context manager, or call `close`.

    WAL with synchronous=FULL: a commit survives a killed process and a power cut alike; one commit a second costs nothing.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A new database in `folder`. Raises `DataError` if the folder holds a run already."""
        path = folder / DATABASE
        if path.exists():
            raise DataError(f"{folder} already holds a run; choose another --out or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        store = cls(sqlite3.connect(path), path)
        with store._guard() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
            connection.execute(f"PRAGMA user_version={VERSION}")
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The database of a stored run. Raises `DataError` for a missing, foreign or damaged one."""
        path = folder / DATABASE
        if not path.is_file():
            raise DataError(f"{folder} holds no {DATABASE}; give the folder of a run")
        store = cls(sqlite3.connect(path), path)
        with store._guard() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise DataError(f"{path} has layout {version}, this version reads {VERSION}; upgrade rmeeto-bench")
        return store

    @contextmanager
    def _guard(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end of the block, and say in one line what went wrong."""
        try:
            with self._connection:
                yield self._connection
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise UnavailableError(
                    f"cannot write {self.path} ({error}); free some disk space and start again, what was measured is kept"
                ) from error
            raise DataError(f"{self.path}: {error}; the run is damaged or in use") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path} is no rmeeto-bench run ({error})") from error

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """The connection, for one commit of several statements; failures come out as one line."""
        return self._guard()

    def add_block(self, block: Block) -> None:
        """Keep one block; it is on the disk when this returns."""
        values = [getattr(block, name) for name in COLUMNS]
        values[COLUMNS.index("telemetry")] = json.dumps(block.telemetry)
        marks = ",".join("?" * len(COLUMNS))
        with self._guard() as connection:
            connection.execute(f"INSERT INTO block({','.join(COLUMNS)}) VALUES({marks})", values)

    def blocks(self, device: str) -> list[Block]:
        """All blocks of a device, in the order they were measured."""
        with self._guard() as connection:
            rows = connection.execute(
                f"SELECT {','.join(COLUMNS)} FROM block WHERE device=? ORDER BY session, round, position", (device,)
            ).fetchall()
        index = COLUMNS.index("telemetry")
        return [Block(**{**dict(zip(COLUMNS, row)), "telemetry": json.loads(row[index])}) for row in rows]

    def rounds(self, device: str, arms: Sequence[str]) -> dict[str, list[float]]:
        """Seconds per image of these arms in every round that has all of them and none rejected, paired by position."""
        by_round: dict[tuple[int, int], dict[str, float]] = {}
        for block in self.blocks(device):
            if block.arm in arms and not block.rejected_reason:
                by_round.setdefault((block.session, block.round), {})[block.arm] = block.seconds / block.images
        complete = [values for values in by_round.values() if len(values) == len(arms)]
        return {arm: [values[arm] for values in complete] for arm in arms}

    def add_predictions(self, device: str, arm: str, start: int, top5: NDArray[np.int16]) -> None:
        """Keep the five best classes (int16 [n, 5], best first, -1 for none) of images `start` to `start + n`."""
        data = np.ascontiguousarray(top5, dtype="<i2")
        with self._guard() as connection:
            connection.execute("INSERT INTO prediction VALUES(?,?,?,?,?)", (device, arm, start, data.tobytes(), len(data)))

    def predictions(self, device: str, arm: str) -> NDArray[np.int16]:
        """The predictions of the first images without a gap, int16 [n, 5]; n = 0 if there are none.

        Images that could not be read have none and are left out.
        """
        with self._guard() as connection:
            rows = connection.execute(
                "SELECT start, top5, count FROM prediction WHERE device=? AND arm=? ORDER BY start", (device, arm)
            ).fetchall()
        parts = [np.empty((0, 5), np.int16)]
        reached = 0
        for start, data, count in rows:
            if start != reached:
                break
            parts.append(np.frombuffer(data, "<i2").reshape(count, 5).astype(np.int16))
            reached += count
        joined = np.concatenate(parts)
        return joined[joined[:, 0] >= 0]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
