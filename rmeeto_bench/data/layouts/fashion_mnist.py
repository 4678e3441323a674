"""Fashion-MNIST in its original IDX files: the bundled test split, and the training split if the machine has it."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from rmeeto_bench.data.image_set import FASHION_MNIST, TensorSet
from rmeeto_bench.errors import DataError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
BUNDLED = Path(__file__).parents[2] / "bundled" / "fashion_mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LARGEST = 1 << 30  # bytes of one file, unpacked; Fashion-MNIST's largest has 45 MiB, EMNIST's 520
PREFIX = {"train": "train", "test": "t10k"}


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An unsigned-byte IDX file, gzipped or not. Raises `DataError` for anything else.

    No more is unpacked than the header announces, so that a gzip bomb stays small.
    """
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(header)
            if head[:4] != bytes([0, 0, 8, dimensions]) or len(head) < header:
                raise DataError(f"{path} is no IDX file of {dimensions} dimensions; download it again")
            shape = np.frombuffer(head, ">u4", dimensions, offset=4)
            wanted = math.prod(int(size) for size in shape)
            if wanted > LARGEST:
                raise DataError(f"{path} announces {tuple(map(int, shape))}, more than {LARGEST >> 20} MiB; it is not read")
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); download it again") from error
    if len(content) < wanted:
        raise DataError(f"{path} is cut short: {len(content)} bytes for shape {tuple(map(int, shape))}; download it again")
    if len(content) > wanted:
        raise DataError(f"{path} holds more than its shape {tuple(map(int, shape))} takes; download it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(folder: Path, stem: str) -> Path:
    for candidate in (folder / f"{stem}.gz", folder / stem):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{folder} has no {stem}[.gz]; install Debian's dataset-fashion-mnist, or let torchvision download it: "
        f"FashionMNIST('data', download=True), then give data/FashionMNIST/raw"
    )


def is_fashion_mnist(folder: Path) -> bool:
    """Whether the folder holds a split of Fashion-MNIST (or any MNIST-like IDX set)."""
    return any((folder / f"{prefix}-labels-idx1-ubyte{end}").is_file() for prefix in PREFIX.values() for end in ("", ".gz"))


def load(split: str, folder: Path | None = None) -> TensorSet:
    """The `train` (60,000) or `test` (10,000) split as uint8 [N, 1, 28, 28].

    Without a folder: the bundled test split, or Debian's package for training. Raises `DataError`.
    """
    folder = folder or (BUNDLED if split == "test" else DEBIAN)
    images = _read_idx(_find(folder, f"{PREFIX[split]}-images-idx3-ubyte"), 3)
    labels = _read_idx(_find(folder, f"{PREFIX[split]}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in the {split} split")
    if len(labels) and labels.max() >= len(CLASSES):
        raise DataError(f"{folder}: label {labels.max()} in a set of {len(CLASSES)} classes")
    return TensorSet(
        name=f"Fashion-MNIST {split}",
        pixels=torch.from_numpy(images.copy()).unsqueeze(1),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=CLASSES,
        normalisation=FASHION_MNIST,
    )
