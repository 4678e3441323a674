"""Data sets: what is bundled, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmeeto_bench.data import fashion_mnist, image_folder
from rmeeto_bench.data.find import find_data
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
    assert "200 of 10000" in data.name


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


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (_idx(np.zeros((3, 28, 28))), _idx(np.zeros(2)), "3 images but 2 labels"),
        (_idx(np.zeros((3, 28, 28))), _idx(np.full(3, 10)), "label 10"),
        (_idx(np.zeros((3, 28, 28)))[:-5], _idx(np.zeros(3)), "cut short"),
        (b"nonsense", _idx(np.zeros(3)), "no IDX file"),
    ],
)
def test_damaged_idx_files_are_one_line(tmp_path: Path, images: bytes, labels: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        fashion_mnist.load("test", _folder(tmp_path, images, labels))


def test_a_truncated_gzip_and_a_missing_split_are_one_line(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _idx(np.zeros((3, 28, 28))), _idx(np.zeros(3)))
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="cannot read"):
        fashion_mnist.load("test", folder)
    with pytest.raises(DataError, match="install Debian's dataset-fashion-mnist"):
        fashion_mnist.load("train", tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("n01", "n02"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.JPEG")
    return tmp_path


def test_class_folders_are_numbered_alphabetically(pictures: Path) -> None:
    data = image_folder.load(pictures, 2, 32)
    (batch,) = data.batches(6)
    assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.images.shape == (6, 3, 32, 32)
    assert len(data.subset(2)) == 2


def test_preprocessing_is_resize_256_of_224_bicubic_and_centre_crop() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 500, 3), dtype=np.uint8))
    expected = image.resize((int(500 * 256 / 300), 256), Image.Resampling.BICUBIC)
    left, top = round((expected.width - 224) / 2), round((256 - 224) / 2)
    cropped = np.asarray(expected.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    assert np.array_equal(image_folder.preprocess(image, 224).numpy(), cropped)


def test_a_flat_folder_and_a_subset_of_classes_are_refused(pictures: Path) -> None:
    with pytest.raises(DataError, match="labels would be numbered wrongly"):
        image_folder.load(pictures, 1000, 224)
    with pytest.raises(DataError, match="no class folders"):
        image_folder.load(pictures / "n01", 1000, 224)
    with pytest.raises(DataError, match="no folder"):
        find_data(pictures / "n01" / "0.JPEG", shape=(3, 32, 32), num_classes=2, images=None)


def test_an_unreadable_image_is_named(pictures: Path) -> None:
    (pictures / "n02" / "1.JPEG").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match="1.JPEG"):
        list(image_folder.load(pictures, 2, 32).batches(6))


def test_without_a_path_only_a_model_of_that_shape_gets_the_bundled_set() -> None:
    assert find_data(None, **NANO, images=50) is not None
    assert find_data(None, shape=(3, 224, 224), num_classes=1000, images=None) is None
