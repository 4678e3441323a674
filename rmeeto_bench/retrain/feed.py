"""From a labelled set to an endless supply of augmented batches: seeded, shared out over processes, startable anywhere.

Every random number is a function of the seed, the epoch and the place in the epoch, never of how many processes or
workers there are: a run that resumes sees what an uninterrupted one sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rmeeto_bench.data import fashion_mnist, image_folder
from rmeeto_bench.data.image_set import Normalisation, TensorSet
from rmeeto_bench.data.preprocessing import Preprocessing, UnreadableImageError, decode
from rmeeto_bench.data.reading import EncodedSet, Reading, image_set
from rmeeto_bench.errors import DataError
from rmeeto_bench.retrain.augment import augmented, draw, fit, image_transform
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.recipe import Recipe

LabelledSet = TensorSet | EncodedSet
Key = tuple[int, int]  # index of an image, and its place in the epoch


def find_training(path: Path | None, size: int) -> tuple[LabelledSet, LabelledSet]:
    """(training set, validation set) of Fashion-MNIST files, or of a folder with `train/` and `val/`; None is the
    installed Fashion-MNIST. Folders are read at `size` pixels. Raises `DataError`."""
    if path is None:
        return fashion_mnist.load("train"), fashion_mnist.load("test")
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give --data a folder with train/ and val/, or of Fashion-MNIST files")
    if fashion_mnist.is_fashion_mnist(path):
        return fashion_mnist.load("train", path), fashion_mnist.load("test", path)
    for part in ("train", "val"):
        if not (path / part).is_dir():
            raise DataError(f"{path} has no {part}/; training wants train/ and val/ in it, each with a folder per class")
    classes = sum(entry.is_dir() for entry in (path / "train").iterdir())
    if not classes:
        raise DataError(f"{path / 'train'} has no class folders; training wants a folder of images for each class")
    listed = [image_folder.load_class_folders(path / part, classes, None) for part in ("train", "val")]
    training, validation = (image_set(source, Preprocessing.imagenet(size), classes, Reading()) for source in listed)
    return training, validation


def order(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Indices of one epoch, int64 [count]: a permutation, or with repeats its first part, every image several times."""
    shuffled = torch.randperm(count, generator=generator)
    repeats = recipe.augmentation.repeats
    return shuffled if repeats == 1 else shuffled.repeat_interleave(repeats)[:count]


class _Images(Dataset[tuple[Tensor, int]]):
    """Single images by key, opened, and transformed under a seed of their own."""

    def __init__(self, data: LabelledSet, transform: Callable[[Image.Image], Tensor], seeds: tuple[int, int]) -> None:
        self.data, self.transform, self.seeds = data, transform, seeds

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        index, place = key
        seed = int(np.random.SeedSequence([*self.seeds, place]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if isinstance(self.data, TensorSet):
            pixels = self.data.pixels[index]
            image = Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
            return self.transform(image), int(self.data.labels[index])
        source, image_index = self.data.source, int(self.data.indices[index])
        try:
            image, _ = decode(source.read(image_index))
        except (UnreadableImageError, OSError) as error:
            raise DataError(f"cannot read image {source.locate(image_index)} ({error}); repair or remove it") from error
        return self.transform(image), int(source.labels[image_index])


class _Keys:
    """The batches of keys that one process takes; a sampler for `DataLoader`."""

    def __init__(self, indices: Tensor, first: int, recipe: Recipe, world: World) -> None:
        self._indices, self._first, self._world = indices, first, world
        self._global = recipe.optimisation.batch_size * world.size

    def __len__(self) -> int:
        return len(self._indices) // self._global - self._first

    def __iter__(self) -> Iterator[list[Key]]:
        for number in range(self._first, self._first + len(self)):
            places = range(number * self._global + self._world.rank, (number + 1) * self._global, self._world.size)
            yield [(int(self._indices[place]), place) for place in places]


@dataclass(frozen=True)
class Feed:
    """Training batches of `data` for a model of input `shape`, on this process's device.

    `workers` processes decode and crop where images are files or each is augmented by itself; sets in memory that are only
    shifted and mirrored lie on the device whole and need none.
    """

    data: LabelledSet
    shape: tuple[int, int, int]
    recipe: Recipe
    world: World
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batches_per_epoch < self.recipe.optimisation.accumulation:
            step = self.recipe.samples_per_step(self.world.size)
            raise DataError(f"{len(self.data)} training images do not fill one step of {step}; take a smaller --batch-size")

    @property
    def batches_per_epoch(self) -> int:
        """Whole micro-batches of all processes together in an epoch; an incomplete one is dropped."""
        return len(self.data) // (self.recipe.optimisation.batch_size * self.world.size)

    @property
    def normalisation(self) -> Normalisation:
        """Of the pixels the model gets."""
        return self.data.normalisation if isinstance(self.data, TensorSet) else self.data.preprocessing.normalisation

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batches of one epoch from the `first` on: images fp32 [B, C, H, W], normalised; labels int64 [B]."""
        settings, world = self.recipe.augmentation, self.world
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        indices = order(len(self.data), self.recipe, generator)
        everyone = self.recipe.optimisation.batch_size * world.size
        for _ in range(first):
            draw(settings, everyone, generator)
        for pixels, labels in self._raw(_Keys(indices, first, self.recipe, world), epoch):
            drawn = draw(settings, everyone, generator).of(world.rank, world.size)
            images = self.normalisation(augmented(pixels, settings, drawn))
            yield fit(images, self.shape), labels

    def _raw(self, keys: _Keys, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        settings, device = self.recipe.augmentation, self.world.device
        if isinstance(self.data, TensorSet) and settings.crop != "resized" and settings.randaugment == "none":
            pixels, labels = self.data.pixels.to(device), self.data.labels.to(device)
            for batch in keys:
                chosen = torch.tensor([index for index, _ in batch], device=device)
                yield pixels[chosen], labels[chosen]
            return
        transform = image_transform(settings, self.shape[-1], self.normalisation.mean)
        images = _Images(self.data, transform, (self.recipe.seed, epoch))
        loader = DataLoader(
            images,
            batch_sampler=keys,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
        )
        try:
            for batch_pixels, batch_labels in loader:
                yield batch_pixels.to(device, non_blocking=True), batch_labels.to(device, non_blocking=True)
        except DataError as error:  # from a worker it comes with a traceback in its text
            raise DataError(str(error).strip().splitlines()[-1].removeprefix("rmeeto_bench.errors.DataError: ")) from error


def validation_batches(
    data: LabelledSet, shape: tuple[int, int, int], world: World, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of a validation set, each image once over all processes: (images fp32 as the model takes them,
    labels int64)."""
    own: LabelledSet
    if isinstance(data, EncodedSet):
        own = replace(data, indices=data.indices[world.rank :: world.size])
    else:
        own = replace(data, pixels=data.pixels[world.rank :: world.size], labels=data.labels[world.rank :: world.size])
    for batch in own.batches(batch_size):
        yield fit(batch.to(world.device).images, shape), batch.labels
