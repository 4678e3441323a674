"""What a pass over a data set leaves in the run's database: predictions, confidence, labels and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import DataError

if TYPE_CHECKING:
    from rmeeto_bench.data.image_set import ImageSet, Problem  # which needs torch; whoever reads predictions does not

BEST = 5
DIGEST = 8  # bytes kept of an image's digest; changed images pass for unchanged once in 2**64


@dataclass(frozen=True)
class Chunk:
    """One batch through all arms."""

    start: int  # number of its first image in the data set
    labels: NDArray[np.int64]  # [n]; `UNREADABLE` where there was no image
    best: dict[str, NDArray[np.int16]]  # by arm the best classes, [n, 5]; -1: none
    confidence: dict[str, NDArray[np.float16]]  # by arm the probability of the best class, [n]
    problems: Sequence[Problem] = ()  # images that could not be read
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


@dataclass(frozen=True)
class Evaluated:
    """The images that a store's predictions are of."""

    name: str  # of the data set
    fingerprint: str  # 16 hex digits that stand for images, labels and preprocessing
    images: int  # of the set, or of the part that was asked for
    classes: int  # of the data set


class Predictions:
    """The predictions of a store. `device` is the id of the device whose pass it is; others may have shared the images."""

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

    def _batches(self, arm: str) -> dict[int, tuple[bytes, bytes, bytes]]:
        """First image of a batch -> its labels, best classes and confidence, of the batches that are whole."""
        query = (
            "SELECT start, seen.labels, top5, confidence.top1 FROM prediction JOIN pass USING (device, arm) "
            "JOIN confidence USING (device, arm, start) JOIN seen USING (device, data, start) WHERE device=? AND arm=? "
            "AND length(seen.labels)=2*count AND length(top5)=10*count AND length(confidence.top1)=2*count"
        )
        with self._store.transaction() as connection:
            return {start: parts for start, *parts in connection.execute(query, (self._device, arm))}

    def done(self, arms: Sequence[str]) -> set[int]:
        """First images of the batches that all these arms have."""
        return set.intersection(*(set(self._batches(arm)) for arm in arms)) if arms else set()

    def results(self, arms: Sequence[str], only: Sequence[int] | None = None) -> Results:
        """Everything stored of all these arms, or the batches that begin at `only`."""
        found = {arm: self._batches(arm) for arm in arms}
        common = set.intersection(*map(set, found.values())) if found else set()
        starts = sorted(common if only is None else common & set(only))
        first = next(iter(found.values()), {})
        labels = _joined([first[start][0] for start in starts], "<i2").astype(np.int64)
        kept = labels >= 0
        for rows in found.values():  # models with other preprocessing may not read every image that the first one reads
            kept &= _joined([rows[start][0] for start in starts], "<i2") == labels
        return Results(
            labels[kept],
            {arm: _joined([rows[i][1] for i in starts], "<i2").reshape(-1, BEST)[kept] for arm, rows in found.items()},
            {arm: _joined([rows[i][2] for i in starts], "<f2")[kept] for arm, rows in found.items()},
        )

    def evaluated(self, arm: str) -> Evaluated | None:
        """What an arm was evaluated on, or None."""
        query = "SELECT name, data, images, classes FROM pass JOIN data_set USING (data) WHERE device=? AND arm=?"
        with self._store.transaction() as connection:
            row = connection.execute(query, (self._device, arm)).fetchone()
        return None if row is None else Evaluated(*row)

    def digests(self, arm: str) -> bytes:
        """The digests of the images that an arm was evaluated on, joined in order."""
        query = (
            "SELECT digests FROM seen JOIN pass USING (device, data) JOIN prediction USING (device, arm, start) "
            "WHERE device=? AND arm=? ORDER BY start"
        )
        with self._store.transaction() as connection:
            return b"".join(digests for (digests,) in connection.execute(query, (self._device, arm)))

    def problems(self, fingerprint: str) -> list[tuple[int, str, str, bool]]:
        """What was wrong with a data set, each thing once, in its order: image (-1: the set), path, reason, and whether it was
        left out."""
        query = "SELECT image, path, reason, skipped FROM problem WHERE data=? ORDER BY image, path"
        with self._store.transaction() as connection:
            return [(*row[:3], bool(row[3])) for row in connection.execute(query, (fingerprint,))]


def _joined(parts: list[bytes], kind: str) -> NDArray[Any]:
    return np.frombuffer(b"".join(parts), kind)
