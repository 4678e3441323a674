"""Single images and clips of a training set: opened, and augmented under a seed of their own, in worker processes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.data.layouts.video import VideoViews, training_clip
from rmeeto_bench.data.preprocessing import UnreadableImageError, decode
from rmeeto_bench.data.reading import SKIP
from rmeeto_bench.data.source import ChangedError
from rmeeto_bench.errors import DataError
from rmeeto_bench.retrain.training_sets import LabelledSet

Key = tuple[int, int]  # index of an item, and its place in the epoch
Transform = Callable[[Image.Image], Tensor]
STAND_INS = 20  # unreadable items in a row, after which it is the set that is broken


class Item(NamedTuple):
    """`pixels` uint8 [copies, C, H, W], or [copies, C, T, H, W] of a clip. `unreadable`: files it stands in for."""

    pixels: Tensor
    label: int
    unreadable: tuple[tuple[str, str], ...] = ()


def joined(items: list[Item]) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    """Pixels [items * copies, ...], labels int64 [items * copies], and (file, reason) of what could not be read."""
    labels = torch.tensor([item.label for item in items]).repeat_interleave(len(items[0].pixels))
    return torch.cat([item.pixels for item in items]), labels, [fault for item in items for fault in item.unreadable]


class Items:
    """Items by key. What is random is a function of `seeds`, the place in the epoch and the number of the copy, so it does
    not depend on how many processes or workers there are; all frames of a clip get the same transform.

    Where the set says `skip`, an item that cannot be read is replaced by the one after it; else it raises `DataError`.
    """

    def __init__(self, data: LabelledSet, transform: Transform, seeds: tuple[int, int], copies: int) -> None:
        self.data, self.transform, self.seeds, self.copies = data, transform, seeds, copies

    def __getitem__(self, key: Key) -> Item:
        index, place = key
        faults: list[tuple[str, str]] = []
        while True:
            try:
                frames, label = self._open((index + len(faults)) % len(self.data), place)
                break
            except _UnreadableError as error:
                faults.append((error.path, error.reason))
                if len(faults) > STAND_INS:
                    last = f"{error.path} ({error.reason})"
                    raise DataError(f"{len(faults)} files in a row cannot be read, the last is {last}; check --data") from error
        copies = [self._copy(frames, place, number) for number in range(self.copies)]
        return Item(torch.stack(copies), label, tuple(faults))

    def _open(self, index: int, place: int) -> tuple[list[Image.Image] | Image.Image, int]:
        """The decoded image, or the frames of a clip, and the label."""
        data = self.data
        if isinstance(data, TensorSet):
            pixels = data.pixels[index]
            image = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
            return image, int(data.labels[index])
        source, position, how = data.source, int(data.indices[index]), data.preprocessing
        try:
            if isinstance(how, VideoViews):
                generator = np.random.default_rng([*self.seeds, place])
                return training_clip(source.read(position), how.frames, generator), int(source.labels[position])
            return decode(source.read(position))[0], int(source.labels[position])
        except (UnreadableImageError, ChangedError, OSError) as error:
            path = source.locate(position)
            if data.on_error == SKIP:
                raise _UnreadableError(path, str(error)) from error
            kind = "video" if isinstance(how, VideoViews) else "image"
            raise DataError(
                f"cannot read {kind} {path} ({error}); repair or remove it, or pass --on-error skip to leave it out"
            ) from error

    def _copy(self, frames: list[Image.Image] | Image.Image, place: int, number: int) -> Tensor:
        seed = [*self.seeds, place, *([number] if number else [])]
        if isinstance(frames, list):
            return torch.stack([_seeded(seed, self.transform, frame) for frame in frames], 1)
        return _seeded(seed, self.transform, frames)


class _UnreadableError(Exception):
    """A file that another item stands in for."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


def _seeded(entropy: list[int], transform: Transform, image: Image.Image) -> Tensor:
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return transform(image)
