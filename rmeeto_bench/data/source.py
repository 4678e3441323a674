"""The interface of a layout on disk: a list of encoded, labelled images that can be read in any order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.errors import DataError


class ChangedError(DataError):
    """The data set on the disk is not the one that was listed when the run began."""


class Source(Protocol):
    """One data set on disk, listed. It does not decode the images."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers, int64 [N]."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Problems found when it was listed."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was decided about its images and labels, where the user did not say."""
        ...

    def locate(self, index: int) -> str:
        """Path of an image (and its name inside that file) for messages."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded image. Raises `ChangedError` or `OSError`."""
        ...

    def changed(self) -> str | None:
        """What changed on the disk since the data set was listed, if that can be seen without reading it all."""
        ...


@dataclass(frozen=True)
class Stamp:
    """A file as it was when the data set was listed, to notice later changes."""

    path: Path  # of the file
    size: int  # bytes
    modified_ns: int  # time of the last change

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file now. Raises `DataError` if it is not there."""
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
        return cls(path, found.st_size, found.st_mtime_ns)

    def changed(self) -> str | None:
        """How the file changed since the listing, as a sentence, or None."""
        try:
            return None if Stamp.of(self.path) == self else f"{self.path} was changed while it was read"
        except DataError:
            return f"{self.path} vanished while it was read"

    def check(self) -> None:
        """Raise `ChangedError` if the file has changed."""
        reason = self.changed()
        if reason is not None:
            raise ChangedError(reason)


def fingerprint(source: Source, indices: NDArray[np.int64], settings: str) -> str:
    """16 hex digits that stand for these images (their names and labels, in order) and how they are preprocessed."""
    digest = hashlib.sha256(settings.encode())
    for index in indices.tolist():
        digest.update(f"{Path(source.locate(index)).name}\0{source.labels[index]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def check_labels(labels: NDArray[np.int64], num_classes: int, where: str) -> None:
    """Raise `DataError` for labels that cannot be this model's: out of range, absent, or all the same."""
    if len(labels) == 0:
        raise DataError(f"{where} holds no images; check --data")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(f"{where} has images without a label ({low}), as a test split does; give the validation split")
    if high >= num_classes:
        raise DataError(
            f"{where} has label {high}, the model only {num_classes} classes (0 to {num_classes - 1}); "
            "take the data set of the model, or its class map"
        )
    if low == high and len(labels) >= 2 * num_classes > 2:
        raise DataError(f"{where} gives all {len(labels)} images the label {low}; the labels are not the images' own")
