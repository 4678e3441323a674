"""Find the training set and the validation set that `--data` names: Fashion-MNIST, images by class, or videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.data.layouts.image_folder import load_class_folders, trained_on
from rmeeto_bench.data.layouts.video import VideoViews
from rmeeto_bench.data.layouts.video_list import find_videos, training_classes
from rmeeto_bench.data.preprocessing import preprocessing_for
from rmeeto_bench.data.reading import EncodedSet, Reading, image_set
from rmeeto_bench.errors import DataError

LabelledSet = TensorSet | EncodedSet


def find_training(
    path: Path | None, shape: tuple[int, ...], reading: Reading | None = None, class_map: Path | None = None
) -> tuple[LabelledSet, LabelledSet]:
    """(training set, validation set) for a model of this input shape, (channels, size, size) or (channels, frames, size, size).

    Images: Fashion-MNIST files, or a folder with `train/` and `val/`; None is the installed Fashion-MNIST. Clips: a folder
    with lists of videos or a folder of videos per class for each of the two; validated on one clip, its centre (spec 5.3).
    `class_map` numbers the class folders. Raises `DataError`.
    """
    reading = reading or Reading()
    if class_map is not None and (path is None or len(shape) == 4 or fashion_mnist.is_fashion_mnist(path)):
        raise DataError(f"--class-map {class_map} has no use: the data has no class folders of images; leave it out")
    if len(shape) == 4:
        return _videos(path, VideoViews(shape[-1], shape[1], clips=1, crops=1), reading)
    if path is None:
        return fashion_mnist.load("train"), fashion_mnist.load("test")
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give --data a folder with train/ and val/, or of Fashion-MNIST files")
    if fashion_mnist.is_fashion_mnist(path):
        return fashion_mnist.load("train", path), fashion_mnist.load("test", path)
    for part in ("train", "val"):
        if not (path / part).is_dir():
            raise DataError(f"{path} has no {part}/; training needs train/ and val/ in it, each with a folder per class")
    classes = trained_on(path / "train", class_map)
    sources = (load_class_folders(path / part, classes) for part in ("train", "val"))
    training, validation = (image_set(source, preprocessing_for(shape), classes.count, reading) for source in sources)
    return replace(training, class_names=classes.names), replace(validation, class_names=classes.names)


def _videos(path: Path | None, views: VideoViews, reading: Reading) -> tuple[EncodedSet, EncodedSet]:
    if path is None or not path.is_dir():
        raise DataError(
            f"{path or 'a model of clips'} {'is no folder' if path else 'trains on videos'}; give --data a folder with "
            "train.csv and val.csv (lines of `path,label`), or with train/ and val/ and in each a folder of videos per class"
        )
    classes = training_classes(path)
    sources = (find_videos(path, classes, split) for split in ("train", "val"))
    training, validation = (image_set(source, views, classes.count, reading) for source in sources)
    return replace(training, class_names=classes.names), replace(validation, class_names=classes.names)
