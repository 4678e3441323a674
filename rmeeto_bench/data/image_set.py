"""What a data set is to the rest of the package: ordered, labelled, normalised batches, each image exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """`images` fp32 [B, C, H, W], normalised; `labels` int64 [B]; `start` the index of the first image in the set."""

    start: int
    images: Tensor
    labels: Tensor


class ImageSet(Protocol):
    """An evaluation set. Batches come in the same order every time; the last one may be smaller, none is padded."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes the labels index."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a batch's images."""
        ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 or float [B, C, H, W] in 0..255 -> fp32, normalised."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return (pixels.float() / 255 - mean) / std


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class TensorSet:
    """An image set that fits into memory: `pixels` uint8 [N, C, H, W], `labels` int64 [N]."""

    name: str
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    normalisation: Normalisation

    @property
    def num_classes(self) -> int:
        """Classes the labels index."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order."""
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            yield Batch(start, self.normalisation(self.pixels[chosen]), self.labels[chosen])

    def resized(self, size: int | None) -> TensorSet:
        """The same images at `size` x `size` pixels (area average), or as they are for None."""
        if size is None or size == self.pixels.shape[-1]:
            return self
        pixels = F.interpolate(self.pixels.float(), size=size, mode="area").round().to(torch.uint8)
        return replace(self, pixels=pixels)

    def subset(self, count: int) -> TensorSet:
        """`count` images with the class proportions of the whole, evenly spread; the order is kept."""
        if count >= len(self):
            return self
        by_class = torch.argsort(self.labels, stable=True)
        picked = by_class[torch.linspace(0, len(self) - 1, count).round().long()].sort().values
        name = f"{self.name}, {count} of {len(self)}"
        return replace(self, name=name, pixels=self.pixels[picked], labels=self.labels[picked])
