"""An image set over encoded images. Worker processes decode each image once; every problem is named and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmeeto_bench.cpus import cores
from rmeeto_bench.data.image_set import NO_DIGEST, UNREADABLE, Batch, Normalisation, Problem, digest_of, part_name, stratified
from rmeeto_bench.data.left_out import account
from rmeeto_bench.data.preprocessing import Preprocessing, UnreadableImageError
from rmeeto_bench.data.readers import in_order
from rmeeto_bench.data.source import Source, check_labels, fingerprint
from rmeeto_bench.errors import DataError

STOP, SKIP = "stop", "skip"
MOST_WORKERS = 16


class Loaded(NamedTuple):
    """The result of a worker process."""

    start: int  # index of the first image in the set
    pixels: Tensor  # uint8 [B, C, H, W], zeros where an image could not be read
    labels: Tensor  # int64 [B], `UNREADABLE` where an image could not be read
    problems: list[tuple[int, str, str, bool]]  # fields of each `Problem`
    digests: bytes  # `digest_of` every image, joined


class Decoding(Protocol):
    """From an encoded image or video to pixels: `Preprocessing` or `VideoViews`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the model's input, without the batch."""
        ...

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of an item: `shape`, with the views first if there are several."""
        ...

    @property
    def views(self) -> int:
        """Number of views of an item."""
        ...

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation still to be applied to the pixels."""
        ...

    def read(self, data: bytes) -> tuple[Tensor, str | None]:
        """Encoded bytes -> (uint8 pixels of `item_shape`, what is unusual, or None). Raises `UnreadableImageError`."""
        ...


@dataclass(frozen=True)
class EncodedSet:
    """An `ImageSet` over a `Source`, whose images are decoded when they are read."""

    source: Source  # lists the encoded images and their labels
    preprocessing: Decoding  # from encoded bytes to pixels
    num_classes: int  # classes of the model
    indices: NDArray[np.int64]  # int64 [N], images of the source, in the order in which they are evaluated
    on_error: str = STOP  # stop raises `DataError` at the first image that cannot be read; skip gives it the label `UNREADABLE`
    workers: int | None = None  # processes that decode; None: one per core, or none for a few batches
    part_of: int | None = None  # images of the whole set, if this is a subset
    problems: tuple[Problem, ...] = ()  # found when the source was listed
    class_names: tuple[str, ...] = ()  # in the order of their numbers, where they are known

    @property
    def views(self) -> int:
        """Views of each item whose probabilities are averaged."""
        return self.preprocessing.views

    @property
    def name(self) -> str:
        """Name of the folder or file, and from how many images a part was chosen."""
        return self.source.name if self.part_of is None else part_name(self.source.name, self.part_of)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was left out, passed over or decided about images and labels."""
        counted = account(len(self.source.labels), self.problems)
        return (*self.source.notes, *([] if counted is None else [f"{self.source.name}: {counted}"]))

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, size, size)."""
        return self.preprocessing.shape

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the images, their labels and the preprocessing: passes with equal fingerprints can be joined."""
        return fingerprint(self.source, self.indices, repr(self.preprocessing))

    def locate(self, index: int) -> str:
        """Path of an image (and its name inside that file) for messages."""
        return self.source.locate(int(self.indices[index]))

    def digests(self, start: int, count: int) -> bytes:
        """Digests of the encoded images as they are on the disk now."""

        def one(index: int) -> bytes:
            try:
                return digest_of(self.source.read(index))
            except (DataError, OSError):
                return NO_DIGEST

        return b"".join(map(one, self.indices[start : start + count].tolist()))

    def changed(self) -> str | None:
        """What changed on the disk since the set was listed."""
        return self.source.changed()

    def load(self, start: int, batch_size: int) -> Loaded:
        """Read and decode the images `start` to `start + batch_size`, in this process."""
        places = self.indices[start : start + batch_size].tolist()
        pixels = torch.zeros(len(places), *self.preprocessing.item_shape, dtype=torch.uint8)
        labels = torch.full((len(places),), UNREADABLE, dtype=torch.int64)
        problems: list[tuple[int, str, str, bool]] = []
        digests = [NO_DIGEST] * len(places)
        for row, index in enumerate(places):
            try:
                encoded = self.source.read(index)
                digests[row] = digest_of(encoded)
                pixels[row], unusual = self.preprocessing.read(encoded)
                labels[row] = int(self.source.labels[index])
            except (UnreadableImageError, DataError, OSError) as error:
                problems.append((start + row, self.source.locate(index), str(error), True))
                continue
            if unusual is not None:
                problems.append((start + row, self.source.locate(index), unusual, False))
        return Loaded(start, pixels, labels, problems, b"".join(digests))

    def batches(self, batch_size: int, starts: Sequence[int] | None = None) -> Iterator[Batch]:
        """All images once, in order, or the batches that begin at `starts`. Raises `DataError` under `on_error` stop."""
        chosen = list(range(0, len(self), batch_size) if starts is None else starts)
        workers = self.workers
        if workers is None:
            workers = min(MOST_WORKERS, cores()) if len(chosen) > 2 else 0
        workers = min(workers, len(chosen))
        for start, pixels, labels, found, digests in in_order(lambda start: self.load(start, batch_size), chosen, workers):
            problems = tuple(Problem(*values) for values in found)
            refuse(problems, self.on_error)
            yield Batch(int(start), pixels, labels, self.preprocessing.normalisation, problems, digests)

    def subset(self, count: int) -> EncodedSet:
        """`count` images with the class proportions of the whole, evenly spread; the order is kept."""
        if count >= len(self):
            return self
        return replace(self, indices=self.indices[stratified(self.labels, count)], part_of=len(self))


def refuse(problems: Sequence[Problem], on_error: str) -> None:
    """Raise `DataError` for the first problem that costs an image, unless `on_error` is skip."""
    fatal = next((problem for problem in problems if problem.skipped), None)
    if fatal is not None and on_error == STOP:
        raise DataError(f"cannot read {fatal.path}: {fatal.reason}; repair it, or leave it out with --on-error skip")


@dataclass(frozen=True)
class Reading:
    """How encoded images are read, as asked for on the command line."""

    on_error: str = STOP  # stop or skip at an image that cannot be read
    workers: int | None = None  # processes that decode; None: chosen by the number of batches
    preprocessing: Preprocessing | None = None  # that the model declares; None: by the shape of its input


def image_set(source: Source, preprocessing: Decoding, num_classes: int, reading: Reading) -> EncodedSet:
    """The whole source as an image set. Raises `DataError` for labels of another model, and for problems in the listing
    under `on_error` stop."""
    if reading.on_error == STOP and any(problem.skipped for problem in source.problems):
        counted = account(len(source.labels), source.problems)
        raise DataError(f"{source.name}: {counted}; repair that, or leave it out with --on-error skip")
    check_labels(source.labels, num_classes, source.name)
    indices = np.arange(len(source.labels), dtype=np.int64)
    return EncodedSet(source, preprocessing, num_classes, indices, reading.on_error, reading.workers, problems=source.problems)
