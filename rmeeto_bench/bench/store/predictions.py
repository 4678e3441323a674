"""What a pass over a data set leaves in the run's database: predictions, confidence, labels and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.image_set import UNREADABLE, ImageSet, Problem
from rmeeto_bench.errors import DataError

BEST = 5
DIGEST = 8  # bytes kept of an image's digest; changed images pass for unchanged once in 2**64


@dataclass(frozen=True)
class Chunk:
    """One batch through all arms."""

    start: int  # number of its first image in the data set
    labels: NDArray[np.int64]  # [n]; `UNREADABLE` where there was no image
    best: dict[str, NDArray[np.int16]]  # by arm the best classes, [n, 5]; -1: none
    confidence: dict[str, NDArray[np.float16]]  # by arm the probability of the best class, [n]
    problems: tuple[Problem, ...] = ()  # images that could not be read
    digests: bytes = b""  # of what was read, 8 bytes an image; zeros where nothing could be read


@dataclass(frozen=True)
class Results:
    """All images that went through all arms and could be read, in the order of the data set."""

    labels: NDArray[np.int64]  # [n]
    best: dict[str, NDArray[np.int16]]  # by arm the best classes, [n, 5]; -1: none
    confidence: dict[str, NDArray[np.float16]]  # by arm the probability of the best class, [n]

    def correct(self, arm: str) -> NDArray[np.bool_]:
        """Whether the first class is right, by image."""
        return self.best[arm][:, 0] == self.labels


class Predictions:
    """The predictions of a store. `device` is the device's id, or the name under which several share one pass."""

    def __init__(self, store: Store, device: str) -> None:
        self._store, self._device = store, device

    def begin(self, data: ImageSet, settings: dict[str, dict[str, Any]]) -> None:
        """Say what is about to be evaluated (by arm: batch size, precision, checkpoint).

        Raises `DataError` if predictions of other data or settings are there: the two could not be joined.
        """
        wanted = {arm: (data.fingerprint, json.dumps(values, sort_keys=True)) for arm, values in settings.items()}
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO data_set VALUES(?,?,?,?)", (data.fingerprint, data.name, len(data), data.num_classes)
            )
            for arm, (identity, text) in wanted.items():
                row = connection.execute(
                    "SELECT data, settings FROM pass WHERE device=? AND arm=?", (self._device, arm)
                ).fetchone()
                if row is not None and row[0] != identity:
                    raise DataError(f"{self._store.path} has predictions of {arm} on another data set; choose another --out")
                if row is not None and row[1] != text:
                    raise DataError(
                        f"{self._store.path} has predictions of {arm} with {row[1]}, not {text}; "
                        "take the same settings, or another --out"
                    )
                connection.execute("INSERT OR IGNORE INTO pass VALUES(?,?,?,?)", (self._device, arm, identity, text))
            self._problems(connection, data.fingerprint, data.problems)

    @staticmethod
    def _problems(connection: Any, identity: str, problems: Sequence[Problem]) -> None:
        rows = [(identity, p.index, p.path, p.reason, int(p.skipped)) for p in problems]
        connection.executemany("INSERT OR IGNORE INTO problem VALUES(?,?,?,?,?)", rows)

    def add(self, data: ImageSet, chunk: Chunk) -> None:
        """Keep one batch of all arms in one commit: after a crash it is there as a whole or not at all, never twice."""
        with self._store.transaction() as connection:
            labels = chunk.labels.astype("<i2").tobytes()
            seen = (self._device, data.fingerprint, chunk.start, labels, chunk.digests)
            connection.execute("INSERT OR REPLACE INTO seen VALUES(?,?,?,?,?)", seen)
            for arm, best in chunk.best.items():
                values = (self._device, arm, chunk.start, best.astype("<i2").tobytes(), len(best))
                connection.execute(
                    "INSERT OR REPLACE INTO prediction(device, arm, start, top5, count) VALUES(?,?,?,?,?)", values
                )
                probabilities = chunk.confidence[arm].astype("<f2").tobytes()
                connection.execute(
                    "INSERT OR REPLACE INTO confidence VALUES(?,?,?,?)", (self._device, arm, chunk.start, probabilities)
                )
            self._problems(connection, data.fingerprint, chunk.problems)

    def check_same(self, data: ImageSet) -> None:
        """Raise `DataError` if an image that was evaluated is another one now: what is stored of it is no answer any more.

        Reading and hashing is a small part of a pass: nothing is decoded.
        """
        with self._store.transaction() as connection:
            query = "SELECT start, digests FROM seen WHERE device=? AND data=? ORDER BY start"
            rows = connection.execute(query, (self._device, data.fingerprint)).fetchall()
        for start, digests in rows:
            count = len(digests) // DIGEST
            now = data.digests(start, count)
            for place in range(count):
                was, found = (kept[place * DIGEST : (place + 1) * DIGEST] for kept in (digests, now))
                if was != found and any(was):
                    raise DataError(
                        f"{data.locate(start + place)} is not the image it was when {self._store.path.parent} was measured; "
                        "put the old images back, or choose another --out"
                    )

    def done(self, arms: Sequence[str]) -> set[int]:
        """First images of the batches that all these arms have."""
        found: set[int] | None = None
        with self._store.transaction() as connection:
            for arm in arms:
                rows = connection.execute("SELECT start FROM prediction WHERE device=? AND arm=?", (self._device, arm))
                starts = {start for (start,) in rows}
                found = starts if found is None else found & starts
        return found or set()

    def results(self, fingerprint: str, arms: Sequence[str], only: Sequence[int] | None = None) -> Results:
        """Everything stored of these arms on this data set, or the batches that begin at `only`."""
        starts = sorted(self.done(arms)) if only is None else sorted(only)
        with self._store.transaction() as connection:
            query = "SELECT start, labels FROM seen WHERE device=? AND data=?"
            seen = dict(connection.execute(query, (self._device, fingerprint)).fetchall())
            query = "SELECT start, {} FROM {} WHERE device=? AND arm=?"
            best = {
                arm: dict(connection.execute(query.format("top5", "prediction"), (self._device, arm)).fetchall())
                for arm in arms
            }
            sure = {
                arm: dict(connection.execute(query.format("top1", "confidence"), (self._device, arm)).fetchall())
                for arm in arms
            }
        labels = _joined([seen[start] for start in starts], "<i2").astype(np.int64)
        kept = labels != UNREADABLE
        return Results(
            labels[kept],
            {arm: _joined([best[arm][start] for start in starts], "<i2").reshape(-1, BEST)[kept] for arm in arms},
            {arm: _joined([sure[arm][start] for start in starts], "<f2")[kept] for arm in arms},
        )

    def problems(self, fingerprint: str) -> list[Problem]:
        """What was wrong with a data set, each thing once, in its order."""
        with self._store.transaction() as connection:
            rows = connection.execute(
                "SELECT image, path, reason, skipped FROM problem WHERE data=? ORDER BY image, path", (fingerprint,)
            ).fetchall()
        return [Problem(image, path, reason, bool(skipped)) for image, path, reason, skipped in rows]

    def unreadable(self, fingerprint: str) -> int:
        """Images of a data set that were skipped."""
        return len({p.index for p in self.problems(fingerprint) if p.skipped and p.index >= 0})


def _joined(parts: list[bytes], kind: str) -> NDArray[Any]:
    return np.frombuffer(b"".join(parts), kind)
