"""Images in class folders (`val/<synset>/*.JPEG`), read once each, preprocessed as the published accuracies were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from rmeeto_bench.data.image_set import IMAGENET, Batch
from rmeeto_bench.errors import DataError

ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


def preprocess(image: Image.Image, size: int) -> Tensor:
    """Short side to 256/224 of `size` (bicubic), centre crop: uint8 [3, size, size]. The protocol of all image models."""
    short = int(256 / 224 * size)
    width, height = image.size
    scale = short / min(width, height)
    shape = (short, int(width * scale)) if height <= width else (int(height * scale), short)
    resized = image.convert("RGB").resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return transforms.pil_to_tensor(transforms.center_crop(resized, [size, size]))


class _Files(Dataset[tuple[Tensor, int]]):
    def __init__(self, items: tuple[tuple[Path, int], ...], size: int) -> None:
        self.items, self.size = items, size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        try:
            with Image.open(path) as image:
                return preprocess(image, self.size), label
        except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"cannot read image {path} ({error}); repair or remove it") from error


@dataclass(frozen=True)
class FolderSet:
    """An `ImageSet` over files; `items` are (path, label) in the order they are evaluated."""

    name: str
    items: tuple[tuple[Path, int], ...]
    num_classes: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in order, decoded by worker processes."""
        workers = min(8, os.cpu_count() or 1) if len(self) > 2 * batch_size else 0
        start = 0
        for pixels, labels in DataLoader(_Files(self.items, self.size), batch_size, num_workers=workers):
            yield Batch(start, IMAGENET(pixels), labels.long())
            start += len(labels)

    def subset(self, count: int) -> FolderSet:
        """`count` images with the class proportions of the whole, evenly spread."""
        if count >= len(self):
            return self
        chosen = torch.linspace(0, len(self) - 1, count).round().long().tolist()  # items are sorted by class
        return FolderSet(
            f"{self.name}, {count} of {len(self)}", tuple(self.items[i] for i in chosen), self.num_classes, self.size
        )


def load(folder: Path, num_classes: int, size: int) -> FolderSet:
    """The images under `folder/<class>/`, classes numbered in alphabetical order (for ImageNet that of the synsets).

    Raises `DataError` for a flat folder or one whose number of classes is not the model's: both would give wrong
    accuracies without an error.
    """
    try:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; give a folder of images by class") from error
    if not classes:
        raise DataError(f"{folder} has no class folders; sort the images into one folder per class (synset) first")
    if len(classes) != num_classes:
        raise DataError(
            f"{folder} has {len(classes)} class folders, the model {num_classes} classes: labels would be numbered wrongly; "
            "give the complete validation set"
        )
    items = tuple(
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in ENDINGS
    )
    if not items:
        raise DataError(f"{folder} holds no images ({', '.join(ENDINGS)}); give a folder of images by class")
    return FolderSet(folder.name, items, num_classes, size)
