"""The raw data of a run in one SQLite file: every block and every prediction, kept the moment it exists."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.journal import choose_journal
from rmeeto_bench.errors import DataError, DiskFullError
from rmeeto_bench.files import now
from rmeeto_bench.records.run import DATABASE, Block

PAUSE = 15.0  # seconds between the ends of two processes' work; in a longer pause the device cools
NOISE = "@noise"  # ending of the arms that see noise where others see real images


@dataclass(frozen=True)
class Facts:
    """What a session finds out about an arm beside its times."""

    precision: str  # fp32, fp16 or bf16
    batch_size: int  # images
    backend: str  # kernels that ran
    weights: str = "random"  # how the weights were trained, as in a record's arm
    checkpoint: str | None = None  # file name of the weights; None: random weights
    checkpoint_sha256: str | None = None  # of that file
    labels: tuple[str, ...] = ()  # codes that qualify the result
    token_counts: tuple[int, ...] = ()  # tokens that entered each block in the last forward
    planned_token_counts: tuple[int, ...] = ()  # the same by the schedule
    failure: str | None = None  # verdict code of an arm that cannot run; None: it ran
    host_bound: bool = False  # whether the processor, not the GPU, set the pace
    # the most GPU memory that building the arm and its first step took; None on a CPU, whose arms share a process
    peak_memory_mib: float | None = None
    # What says how the weights were trained: catalogue, metadata, arguments, file name or unknown.
    known_by: str = ""
    # Whether the weights are an average over the training.
    averaged: bool = False
    # The whole reduction as `checkpoints.trained.written` writes it; the cell's own where empty.
    reduction: str = ""
    # Classes of the head; the model's own where None.
    num_classes: int | None = None
    # Whether it was timed on noise.
    noise: bool = False
    # What went wrong, where the verdict's own words do not say it.
    failure_detail: str = ""
    # Seconds that torch.compile took before anything was timed; None where nothing is compiled.
    compile_seconds: float | None = None
    # How often torch wanted to compile it again later.
    recompilations: int | None = None
    # GFLOPs of an image as torch counts them, of a model that is not ours; None: they cannot be counted.
    gflops: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Facts:
        """From the store."""
        tuples = {name: tuple(value[name]) for name in ("labels", "token_counts", "planned_token_counts")}
        return cls(**{**value, **tuples})


VERSION = 4  # of the layout; a run of another one is not read
SCHEMA = """
CREATE TABLE session(device TEXT, session INTEGER, model TEXT, kind TEXT, status TEXT, started TEXT, ended TEXT,
  pid INTEGER, environment TEXT, result TEXT, PRIMARY KEY(device, session));
CREATE TABLE arm(device TEXT, session INTEGER, arm TEXT, facts TEXT, PRIMARY KEY(device, session, arm));
CREATE TABLE probe(device TEXT, session INTEGER, arm TEXT, top1 BLOB, digest TEXT, PRIMARY KEY(device, session, arm));
CREATE TABLE latency(device TEXT, session INTEGER, arm TEXT, seconds BLOB, PRIMARY KEY(device, session, arm));
CREATE TABLE block(device TEXT, session INTEGER, round INTEGER, position INTEGER, arm TEXT, steps INTEGER,
  images INTEGER, seconds REAL, wall_seconds REAL, rejected_reason TEXT, telemetry TEXT,
  PRIMARY KEY(device, session, round, arm));
CREATE TABLE prediction(device TEXT, arm TEXT, start INTEGER, top5 BLOB, count INTEGER,
  PRIMARY KEY(device, arm, start));
CREATE TABLE confidence(device TEXT, arm TEXT, start INTEGER, top1 BLOB, PRIMARY KEY(device, arm, start));
CREATE TABLE pass(device TEXT, arm TEXT, data TEXT, settings TEXT, PRIMARY KEY(device, arm));
CREATE TABLE data_set(data TEXT PRIMARY KEY, name TEXT, images INTEGER, classes INTEGER);
CREATE TABLE seen(device TEXT, data TEXT, start INTEGER, labels BLOB, digests BLOB, PRIMARY KEY(device, data, start));
CREATE TABLE problem(data TEXT, image INTEGER, path TEXT, reason TEXT, skipped INTEGER,
  PRIMARY KEY(data, image, path, reason));
"""


COLUMNS = tuple(column.name for column in fields(Block))


@dataclass(frozen=True)
class Probe:
    """What an arm says of the probe images."""

    top1: tuple[int, ...]  # best class of each image
    digest: str  # of the rounded logits of all images


@dataclass(frozen=True)
class Session:
    """One fresh process and what became of it."""

    device: str  # id of the device
    session: int  # number, from 0
    model: str  # name of the model
    kind: str  # timing, accuracy, paper or sweep
    # running, done, share (its share of a pass is done, others may not be), stopped (asked to) or lost (its process went away)
    status: str
    started: str  # time in UTC
    ended: str | None  # time in UTC; None: still running, or lost
    pid: int  # number of the process
    environment: dict[str, Any]  # what it ran in: host, packages, driver, ...
    result: dict[str, Any]  # what its work says of itself


SESSION_COLUMNS = tuple(column.name for column in fields(Session))


def other_version(layout: int) -> str:
    """What to do about a run of another layout."""
    return "upgrade rmeeto-bench" if layout > VERSION else "measure again with rerun, or use the version that wrote it"


class Store:
    """One run's database. Use as a context manager, or call `close`.

    WAL with synchronous=FULL: a commit survives a killed process and a power cut alike; one commit a second costs nothing.
    Several processes may have it open; each commits its own blocks. `note`: what its maker decided about the disk, or nothing.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection | None = None) -> None:
        self._connection = connection or sqlite3.connect(path, timeout=60)
        self.path, self.note = path, ""

    @classmethod
    def create(cls, folder: Path, *, resume: bool = False) -> Store:
        """A new database in `folder`. Raises `DataError` if the folder holds a run already.

        With `resume` the one that is there is opened, and one whose making was cut short is made again.
        """
        path = folder / DATABASE
        if path.exists() and not resume:
            raise DataError(f"{folder} already holds a run; choose another --out, remove it, or continue it with --resume")
        folder.mkdir(parents=True, exist_ok=True)
        store = cls(path)
        with store._guard() as connection:
            store.note = choose_journal(path)
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables == 0:
                connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        store._check()
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The database of a run that this process measures or continues, to write to. `open_stored` is for all others.

        Raises `DataError` for a missing, foreign or damaged one.
        """
        path = folder / DATABASE
        if not path.is_file():
            raise DataError(f"{folder} holds no {DATABASE}; give the folder of a run")
        store = cls(path)
        store._check()
        return store

    def _check(self) -> None:
        with self._guard() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
        if version != VERSION:
            raise DataError(f"{self.path} has layout {version}, this version reads layout {VERSION}; {other_version(version)}")
        with self._guard() as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            foreign = connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
        if foreign is not None:
            raise DataError(f"{self.path} holds the {foreign[0]} {foreign[1]!r}, which no run has; it was tampered with")

    def _parse(self, text: str) -> Any:
        """A JSON column. Raises `DataError` for a row that was not written by this package."""
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self.path} holds a damaged row ({type(error).__name__}); copy it again") from error

    @contextmanager
    def _guard(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end of the block, and say in one line what went wrong."""
        try:
            with self._connection:
                yield self._connection
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error) or "unable to open" in str(error):
                remedy = "free some disk space, then continue with --resume; what was measured is kept"
                raise DiskFullError(f"cannot write {self.path} ({error}); {remedy}") from error
            if "readonly" in str(error):
                raise DataError(f"{self.path} cannot be written; copy the folder to a place of your own") from error
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
        return [Block(**{**dict(zip(COLUMNS, row)), "telemetry": self._parse(row[index])}) for row in rows]

    def count(self, table: str = "block") -> int:
        """How many rows a table has: `block`, or `prediction`."""
        with self._guard() as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def begin_session(self, device: str, model: str, kind: str, environment: dict[str, Any]) -> int:
        """A new session of this process; its number is used once per device, so a restarted one is another session."""
        with self._guard() as connection:
            connection.execute("BEGIN IMMEDIATE")
            (number,) = connection.execute(
                "SELECT coalesce(max(session) + 1, 0) FROM session WHERE device=?", (device,)
            ).fetchone()
            values = (
                device,
                number,
                model,
                kind,
                "running",
                now(),
                None,
                os.getpid(),
                json.dumps(environment),
                "{}",
            )
            connection.execute("INSERT INTO session VALUES(?,?,?,?,?,?,?,?,?,?)", values)
        return int(number)

    def end_session(self, device: str, session: int, status: str, result: dict[str, Any] | None = None) -> None:
        """Say how a session ended; one that was lost keeps its blocks."""
        with self._guard() as connection:
            connection.execute(
                "UPDATE session SET status=?, ended=?, result=coalesce(?, result) WHERE device=? AND session=?",
                (status, now(), None if result is None else json.dumps(result), device, session),
            )

    def join_shares(self, device: str, model: str) -> None:
        """All shares of a pass are done: so are its sessions, which each did one."""
        with self._guard() as connection:
            query = "UPDATE session SET status='done' WHERE status='share' AND device=? AND model=?"
            connection.execute(query, (device, model))

    def lose_sessions(self, device: str | None = None) -> int:
        """Mark the sessions that still claim to run as lost (of one device, or of all); returns how many there were."""
        with self._guard() as connection:
            return connection.execute(
                "UPDATE session SET status='lost', ended=? WHERE status='running' AND (device=? OR ? IS NULL)",
                (now(), device, device),
            ).rowcount

    def sessions(self, device: str, model: str | None = None, kind: str | None = None) -> list[Session]:
        """The sessions of a device in order, of one model and kind if given."""
        with self._guard() as connection:
            query = f"SELECT {','.join(SESSION_COLUMNS)} FROM session WHERE device=? ORDER BY session"
            rows = connection.execute(query, (device,)).fetchall()
        found = [
            Session(**{**dict(zip(SESSION_COLUMNS, row)), "environment": self._parse(row[8]), "result": self._parse(row[9])})
            for row in rows
        ]
        return [s for s in found if model in (None, s.model) and kind in (None, s.kind)]

    def worked(self, device: str) -> float:
        """Seconds for which a device has worked for this run until now, without a longer pause than between two processes."""
        edge, total = datetime.now(UTC), 0.0
        ends = ((s.ended, s.started) for s in self.sessions(device) if s.ended is not None and s.status != "lost")
        for ended, started in sorted(ends, reverse=True):
            first, last = (datetime.fromisoformat(text) for text in (started, ended))
            if (edge - last).total_seconds() > PAUSE:
                break
            total += max(0.0, (min(edge, last) - first).total_seconds())
            edge = min(edge, first)
        return total

    def _put(self, table: str, *values: object) -> None:
        with self._guard() as connection:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES({','.join('?' * len(values))})", values)

    def _get(self, table: str, columns: str, device: str, session: int) -> list[tuple[Any, ...]]:
        with self._guard() as connection:
            where = "WHERE device=? AND session=? ORDER BY rowid"
            return connection.execute(f"SELECT {columns} FROM {table} {where}", (device, session)).fetchall()

    def add_facts(self, device: str, session: int, arm: str, facts: dict[str, Any]) -> None:
        """Keep what a session found out about an arm beside its times."""
        self._put("arm", device, session, arm, json.dumps(facts))

    def facts(self, device: str, session: int) -> dict[str, dict[str, Any]]:
        """Arm -> facts of one session."""
        return {arm: self._parse(facts) for arm, facts in self._get("arm", "arm, facts", device, session)}

    def add_probe(self, device: str, session: int, arm: str, probe: Probe) -> None:
        """Keep what the program answered to the fixed probe images."""
        self._put("probe", device, session, arm, np.asarray(probe.top1, "<i2").tobytes(), probe.digest)

    def probes(self, device: str, session: int) -> dict[str, Probe]:
        """Arm -> probe of one session."""
        rows = self._get("probe", "arm, top1, digest", device, session)
        return {arm: Probe(tuple(int(i) for i in np.frombuffer(top1, "<i2")), digest) for arm, top1, digest in rows}

    def add_latencies(self, device: str, session: int, arm: str, seconds: Sequence[float]) -> None:
        """Keep the times of single steps, in the order measured."""
        self._put("latency", device, session, arm, np.asarray(seconds, "<f4").tobytes())

    def latencies(self, device: str, session: int) -> dict[str, NDArray[np.float32]]:
        """Arm -> seconds of single steps in one session."""
        rows = self._get("latency", "arm, seconds", device, session)
        return {arm: np.frombuffer(data, "<f4") for arm, data in rows}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
