"""Augmented training batches from a labelled set: seeded, divided among the processes, and resumable at any batch.

Every random number is a function of the seed, the epoch and the place in the epoch, never of the number of processes or
workers: a resumed run sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rmeeto_bench.data.image_set import UNREADABLE, Normalisation, TensorSet
from rmeeto_bench.data.preprocessing import Preprocessing, preprocessing_for
from rmeeto_bench.data.readers import in_order
from rmeeto_bench.data.reading import EncodedSet
from rmeeto_bench.errors import DataError
from rmeeto_bench.retrain.augment import augmented, draw, fit, image_transform
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.items import Items, Key, joined
from rmeeto_bench.retrain.recipe import Recipe
from rmeeto_bench.retrain.training_sets import LabelledSet


def order(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Indices of one epoch, int64 [count]: a permutation, or with repeats its first part, every image several times."""
    shuffled = torch.randperm(count, generator=generator)
    repeats = recipe.augmentation.repeats
    return shuffled if repeats == 1 else shuffled.repeat_interleave(repeats)[:count]


class _Keys:
    """The batches of keys that one process takes."""

    def __init__(self, indices: Tensor, first: int, recipe: Recipe, world: World) -> None:
        self._indices, self._first, self._world = indices, first, world
        self._global = recipe.optimisation.batch_size // recipe.augmentation.copies * world.size

    def __len__(self) -> int:
        return len(self._indices) // self._global - self._first

    def __iter__(self) -> Iterator[list[Key]]:
        for number in range(self._first, self._first + len(self)):
            places = range(number * self._global + self._world.rank, (number + 1) * self._global, self._world.size)
            yield [(int(self._indices[place]), place) for place in places]


@dataclass(frozen=True)
class Feed:
    """Training batches for one process."""

    data: LabelledSet  # training set
    shape: tuple[int, ...]  # of the model's input, without the batch
    recipe: Recipe  # batch size, augmentation and seed
    world: World  # this process and its device
    # processes that decode and crop, for images in files or augmented one by one; a set in memory that is only shifted and
    # mirrored lies on the device whole and needs none
    workers: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # file that was skipped -> why

    def __post_init__(self) -> None:
        if self.batches_per_epoch < self.recipe.optimisation.accumulation:
            step = self.recipe.samples_per_step(self.world.size)
            raise DataError(f"{len(self.data)} training images do not fill one step of {step}; take a smaller --batch-size")

    @property
    def batches_per_epoch(self) -> int:
        """Whole micro-batches of all processes together in an epoch; an incomplete one is dropped."""
        settings = self.recipe.optimisation
        return len(self.data) * self.recipe.augmentation.copies // (settings.batch_size * self.world.size)

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the pixels that the model gets."""
        return self.data.normalisation if isinstance(self.data, TensorSet) else self.data.preprocessing.normalisation

    @property
    def prepared(self) -> Preprocessing:
        """How single images are prepared: as in an evaluation. A set in memory keeps its channels, and `fit` does the rest."""
        if isinstance(self.data, TensorSet):
            return replace(preprocessing_for((self.data.shape[0], *self.shape[1:])), normalisation=self.normalisation)
        return preprocessing_for(self.shape)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batches of one epoch from the `first` on: images fp32 [B, C, H, W] (clips [B, C, T, H, W]), normalised;
        labels int64 [B]. Copies of an image are neighbours."""
        settings, world = self.recipe.augmentation, self.world
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        indices = order(len(self.data), self.recipe, generator)
        everyone = self.recipe.optimisation.batch_size * world.size
        for _ in range(first):
            draw(settings, everyone, generator)
        for pixels, labels in self._raw(_Keys(indices, first, self.recipe, world), epoch):
            drawn = draw(settings, everyone, generator).of(world.rank, world.size, settings.copies)
            images = augmented(pixels, settings, drawn)
            if images.dim() == 5:
                yield self.normalisation.clips(images), labels
            else:
                yield fit(self.normalisation(images), self.shape), labels

    def _raw(self, keys: _Keys, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        settings, device = self.recipe.augmentation, self.world.device
        if isinstance(self.data, TensorSet) and settings.crop != "resized" and settings.randaugment == "none":
            pixels, labels = self.data.pixels.to(device), self.data.labels.to(device)
            for batch in keys:
                chosen = torch.tensor([index for index, _ in batch], device=device).repeat_interleave(settings.copies)
                yield pixels[chosen], labels[chosen]
            return
        transform = image_transform(settings, self.prepared)
        items = Items(self.data, transform, (self.recipe.seed, epoch), settings.copies)
        for batch_pixels, batch_labels, unreadable in in_order(
            lambda batch: joined([items[key] for key in batch]), keys, self.workers
        ):
            self.unreadable.update(unreadable)
            yield batch_pixels.to(device), batch_labels.to(device)


def validation_batches(
    data: LabelledSet, shape: tuple[int, ...], world: World, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of this process's part of a validation set, as the model takes them. Together the processes see each
    image once."""
    if isinstance(data, EncodedSet):
        own: LabelledSet = replace(data, indices=data.indices[world.rank :: world.size])
    else:
        own = replace(data, pixels=data.pixels[world.rank :: world.size], labels=data.labels[world.rank :: world.size])
    for batch in own.batches(batch_size):
        images, known = batch.to(world.device).images, batch.labels != UNREADABLE
        images = images.flatten(0, 1) if images.dim() > 4 else fit(images, shape)  # a video has one view here
        yield images[known.to(images.device)], batch.labels[known]
