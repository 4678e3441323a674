"""Data sets: what is bundled, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rmeeto_bench.data.find import find_data
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import DataError

NANO = {"shape": (1, 28, 28), "num_classes": 10}


def test_the_bundled_set_is_the_whole_test_split() -> None:
    data = fashion_mnist.load("test")
    assert (len(data), data.shape, data.num_classes) == (10_000, (1, 28, 28), 10)
    assert torch.bincount(data.labels).tolist() == [1000] * 10
    first = next(data.batches(64))
    assert (first.start, first.images.shape) == (0, (64, 1, 28, 28))
    assert abs(float(torch.cat([b.images for b in data.batches(1000)]).mean())) < 0.02


def test_batches_cover_every_image_once_and_pad_none() -> None:
    data = fashion_mnist.load("test").subset(103)
    batches = list(data.batches(25))
    assert [len(b.labels) for b in batches] == [25, 25, 25, 25, 3]
    assert [b.start for b in batches] == [0, 25, 50, 75, 100]


def test_a_subset_keeps_the_class_proportions_and_says_so() -> None:
    data = fashion_mnist.load("test").subset(200)
    assert torch.bincount(data.labels).tolist() == [20] * 10
    assert data.name.endswith("test, chosen from 10,000")


def _idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def _folder(tmp_path: Path, images: bytes, labels: bytes) -> Path:
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_plain_and_gzipped_files_read_alike(tmp_path: Path) -> None:
    images, labels = np.arange(3 * 28 * 28).reshape(3, 28, 28), np.array([1, 2, 3])
    data = fashion_mnist.load("test", _folder(tmp_path, _idx(images), _idx(labels)))
    assert data.labels.tolist() == [1, 2, 3]
    assert find_data(tmp_path, **NANO, images=None) is not None


def test_a_truncated_gzip_and_a_missing_split_are_one_line(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _idx(np.zeros((3, 28, 28))), _idx(np.zeros(3)))
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="cannot read"):
        fashion_mnist.load("test", folder)
    with pytest.raises(DataError, match="install Debian's dataset-fashion-mnist"):
        fashion_mnist.load("train", tmp_path)


def test_without_a_path_only_a_model_of_that_shape_gets_the_bundled_set() -> None:
    assert find_data(None, **NANO, images=50) is not None
    assert find_data(None, shape=(3, 224, 224), num_classes=1000, images=None) is None


def test_bundled_images_are_resized_for_a_model_of_another_size() -> None:
    own, larger = (find_data(None, shape=(1, size, size), num_classes=10, images=600) for size in (28, 56))
    assert own is not None
    assert larger is not None
    assert (larger.shape, larger.name) == ((1, 56, 56), f"{own.name} at 56 px")
    shrunk = [F.avg_pool2d(batch.pixels.float(), 2) for batch in larger.batches(300)]
    differences = [(batch.pixels - small).abs().mean() for batch, small in zip(own.batches(300), shrunk, strict=True)]
    assert max(differences) < 8  # of 255 levels: the same pictures, in the same order
    assert find_data(None, shape=(1, 448, 448), num_classes=10, images=600) is None
