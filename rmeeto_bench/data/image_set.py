"""The interface of a data set: ordered, labelled, normalised batches that hold each image exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

UNREADABLE = -1  # the label of an image that could not be read: it has a place in its batch and counts nowhere


def digest_of(data: bytes) -> bytes:
    """An 8-byte digest of an image: of the file's content if it is encoded, of its pixels if it is not."""
    return hashlib.blake2b(data, digest_size=8).digest()


NO_DIGEST = bytes(8)  # of an image that could not be read


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of pixels in [0, 1] by channel."""

    mean: tuple[float, ...]  # of each channel
    std: tuple[float, ...]  # standard deviation of each channel

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 or float [..., C, H, W] in 0..255 -> fp32, normalised."""
        return self._apply(pixels, channel=-3)

    def clips(self, pixels: Tensor) -> Tensor:
        """uint8 [..., C, T, H, W] -> fp32, normalised."""
        return self._apply(pixels, channel=-4)

    def _apply(self, pixels: Tensor, channel: int) -> Tensor:
        shape = (-1,) + (1,) * (-channel - 1)
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.std, device=pixels.device).view(shape)
        scaled = pixels.float() / 255
        return scaled.sub_(mean).div_(std)  # in place: this runs on every image, beside the decoding of the next


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FASHION_MNIST = Normalisation((0.2860,), (0.3530,))


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set."""

    index: int  # the image's place in the set; -1: the set as a whole
    path: str  # file, and the member in it
    reason: str  # what is wrong, or how the image was read
    skipped: bool = True  # the image was left out; if not, it was read as `reason` says


@dataclass(frozen=True)
class Batch:
    """Neighbouring images of a set."""

    start: int  # index of the first image in the set
    pixels: Tensor  # uint8 [B, C, H, W], views of a video [B, V, C, T, H, W]; zeros where an image could not be read
    labels: Tensor  # int64 [B], `UNREADABLE` where an image could not be read
    normalisation: Normalisation  # still to be applied to the pixels
    problems: tuple[Problem, ...] = ()  # found when these images were read
    digests: bytes = b""  # `digest_of` every image, joined; zeros where one could not be read

    @property
    def images(self) -> Tensor:
        """fp32, normalised, of the shape of `pixels`."""
        return self.normalisation.clips(self.pixels) if self.pixels.dim() > 4 else self.normalisation(self.pixels)

    def to(self, device: torch.device) -> Batch:
        """The same batch with its pixels on a device: a quarter of the bytes of `images`, to be normalised there."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))


class ImageSet(Protocol):
    """An evaluation set. Batches come in the same order every time; the last one may be smaller, none is padded."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes that the labels index."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of a batch's images; (channels, frames, height, width) of clips."""
        ...

    @property
    def views(self) -> int:
        """Views of each item whose probabilities are averaged: 1 for images."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of the images, their labels and the preprocessing: passes with equal fingerprints can be joined."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong with the set as a whole when it was listed."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was left out, passed over or decided about images and labels."""
        ...

    def changed(self) -> str | None:
        """What changed on the disk since the set was listed, or None."""
        ...

    def __len__(self) -> int: ...

    def locate(self, index: int) -> str:
        """Path of an image (and its name inside that file) for messages."""
        ...

    def digests(self, start: int, count: int) -> bytes:
        """`digest_of` these images as they are now, without decoding them."""
        ...

    def batches(self, batch_size: int, starts: Sequence[int] | None = None) -> Iterator[Batch]:
        """All images once, in order; or only the batches that begin at `starts`, multiples of `batch_size`."""
        ...


def part_name(name: str, whole: int) -> str:
    """What a part of so many images is called; `12 images of` may stand before it."""
    return f"{name}, chosen from {whole:,}"


def stratified(labels: ArrayLike, count: int) -> NDArray[np.int64]:
    """Indices of `count` images, ascending: the class proportions of the whole, evenly spread within each class."""
    by_class = np.argsort(np.asarray(labels), kind="stable")
    places = np.round(np.linspace(0, len(by_class) - 1, min(count, len(by_class)))).astype(np.int64)
    return np.sort(by_class[places])


PIECE = 256  # images that are resized at once


@dataclass(frozen=True)
class TensorSet:
    """An image set that fits into memory."""

    name: str  # what a report calls it
    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    classes: tuple[str, ...]  # names of the classes, in the order of their numbers
    normalisation: Normalisation  # still to be applied to the pixels
    views: int = 1  # of each item; 1 for images
    problems: tuple[Problem, ...] = ()  # found when it was listed
    notes: tuple[str, ...] = ()  # sentences about what was left out or decided

    @cached_property
    def fingerprint(self) -> str:
        """A digest of pixels, labels and normalisation."""
        digest = hashlib.sha256(repr((self.shape, self.normalisation)).encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def changed(self) -> str | None:
        """Always None: the set is in memory."""
        return None

    @property
    def num_classes(self) -> int:
        """Number of classes that the labels index."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, starts: Sequence[int] | None = None) -> Iterator[Batch]:
        """All images once, in order, or the batches that begin at `starts`."""
        for start in range(0, len(self), batch_size) if starts is None else starts:
            chosen = slice(start, start + batch_size)
            labels = self.labels[chosen]
            yield Batch(start, self.pixels[chosen], labels, self.normalisation, digests=self.digests(start, len(labels)))

    def locate(self, index: int) -> str:
        """The set's name and the image's place in it."""
        return f"{self.name}, image {index}"

    def digests(self, start: int, count: int) -> bytes:
        """`digest_of` the pixels of these images."""
        return b"".join(digest_of(pixels.numpy().tobytes()) for pixels in self.pixels[start : start + count])

    def resized(self, size: int) -> TensorSet:
        """The same images at `size` x `size` pixels, bicubic with antialiasing; the name tells of it."""
        if size == self.pixels.shape[-1]:
            return self
        pieces = [
            F.interpolate(piece.float(), size=size, mode="bicubic", antialias=True).clamp(0, 255).round().to(torch.uint8)
            for piece in self.pixels.split(PIECE)
        ]
        return replace(self, name=f"{self.name} at {size} px", pixels=torch.cat(pieces))

    def subset(self, count: int) -> TensorSet:
        """`count` images with the class proportions of the whole, evenly spread; the order is kept."""
        if count >= len(self):
            return self
        picked = torch.from_numpy(stratified(self.labels.numpy(), count))
        return replace(self, name=part_name(self.name, len(self)), pixels=self.pixels[picked], labels=self.labels[picked])
