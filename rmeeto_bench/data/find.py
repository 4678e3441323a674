"""From `--data` to an image set: the bundled one, Fashion-MNIST files, or a folder of images by class."""

from __future__ import annotations

from pathlib import Path

from rmeeto_bench.data import fashion_mnist, image_folder
from rmeeto_bench.data.image_set import ImageSet, TensorSet
from rmeeto_bench.errors import DataError


def find_data(path: Path | None, *, shape: tuple[int, ...], num_classes: int, images: int | None) -> ImageSet | None:
    """The evaluation set for a model of this input shape, or None if no path is given and the bundled set doesn't fit.

    `images` keeps that many, in the class proportions of the whole. Raises `DataError`.
    """
    if path is None:
        if shape != (1, 28, 28) or num_classes != len(fashion_mnist.CLASSES):
            return None
        found: TensorSet | image_folder.FolderSet = fashion_mnist.load("test")
    elif len(shape) != 3:
        raise DataError("a model of clips cannot read --data yet; leave it out to measure on noise")
    elif not path.is_dir():
        raise DataError(f"{path} is no folder; give --data a folder of images by class, or of Fashion-MNIST files")
    elif fashion_mnist.is_fashion_mnist(path):
        found = fashion_mnist.load("test", path)
    else:
        found = image_folder.load(path, num_classes, shape[1])
    return found if images is None else found.subset(images)
