"""From `--data` to an image set: the bundled one, Fashion-MNIST files, or images in any of the layouts people have."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from rmeeto_bench.data.class_map import read_class_map
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.data.layouts import fashion_mnist, image_folder, parquet, tar_shards
from rmeeto_bench.data.layouts.video import VideoViews
from rmeeto_bench.data.layouts.video_list import find_videos
from rmeeto_bench.data.preprocessing import Preprocessing
from rmeeto_bench.data.reading import Reading, image_set
from rmeeto_bench.data.source import Source
from rmeeto_bench.errors import DataError

SPLITS = ("val", "validation")
OTHER_SPLITS = ("train", "test")
WRITTEN_AS = "give a folder of images by class, or of Fashion-MNIST files, .parquet or .tar shards"


@dataclass(frozen=True)
class Where:
    """What to read besides the path: `labels` of a flat folder, `class_map` from class names to numbers."""

    labels: Path | None = None
    class_map: Path | None = None


def find_data(
    path: Path | None,
    *,
    shape: tuple[int, ...],
    num_classes: int,
    images: int | None,
    where: Where | None = None,
    reading: Reading | None = None,
) -> ImageSet | None:
    """The evaluation set for a model of this input shape, or None if no path is given and the bundled set doesn't fit.

    A shape of four, (channels, frames, height, width), takes videos, in the views of the published evaluation.
    `images` keeps that many, in the class proportions of the whole. Raises `DataError`.
    """
    if path is None:
        if shape != (1, 28, 28) or num_classes != len(fashion_mnist.CLASSES):
            return None
        bundled = fashion_mnist.load("test")
        return bundled if images is None else bundled.subset(images)
    reading, where = reading or Reading(), where or Where()
    if len(shape) == 4:
        videos = find_videos(path, num_classes, where.class_map)
        clips = image_set(videos, VideoViews(shape[-1], shape[1]), num_classes, reading)
        return clips if images is None else clips.subset(images)
    if path.is_dir() and fashion_mnist.is_fashion_mnist(path):
        files = fashion_mnist.load("test", path)
        return files if images is None else files.subset(images)
    found = image_set(find_source(path, num_classes, where), preprocessing_for(shape), num_classes, reading)
    return found if images is None else found.subset(images)


def preprocessing_for(shape: tuple[int, ...]) -> Preprocessing:
    """What a model of this input shape was trained with: the ImageNet protocol, or whole grey images (the bundled model)."""
    channels, size = shape[0], shape[-1]
    if channels == 1:
        return Preprocessing(size, size, 1, fashion_mnist.NORMALISATION)
    return Preprocessing.imagenet(size)


def _validation(paths: list[Path], folder: Path) -> list[Path]:
    """The files of the validation split, by their names."""
    chosen = [path for path in paths if any(split in path.name.lower() for split in SPLITS)]
    if chosen:
        return chosen
    other = [path for path in paths if any(split in path.name.lower() for split in OTHER_SPLITS)]
    if other:
        raise DataError(f"{folder} has no file of the validation split, only {other[0].name} and the like; download that split")
    return paths


def _files(path: Path) -> tuple[list[Path], Path]:
    """(the data files that a path or pattern stands for, sorted, the folder they are in)."""
    text = str(path)
    if path.is_file():
        return [path], path.parent
    if any(mark in text for mark in "*?["):
        found = sorted(Path(name) for name in glob.glob(text))
        if not found:
            raise DataError(f"no file matches {text}; check --data")
        return found, path.parent
    if not path.is_dir():
        raise DataError(f"{path} is no folder and no file; {WRITTEN_AS}")
    for folder in (path, path / "data"):
        for ending in ("parquet", "tar"):
            found = sorted(folder.glob(f"*.{ending}"))
            if found:
                return _validation(found, folder), folder
    return [], path


def find_source(path: Path, num_classes: int, where: Where) -> Source:
    """List the images at `path` in whatever layout they are. Raises `DataError`."""
    class_map = None if where.class_map is None else read_class_map(where.class_map, num_classes)
    files, folder = _files(path)
    if files:
        if all(file.suffix == ".parquet" for file in files):
            return parquet.load(files, folder.name, num_classes)
        if all(".tar" in file.suffixes or file.suffix == ".tgz" for file in files):
            return tar_shards.load(files, folder.name)
        raise DataError(f"{files[0]} is neither a .parquet nor a .tar file; {WRITTEN_AS}")
    for split in SPLITS:
        if (path / split).is_dir():
            return find_source(path / split, num_classes, where)
    if where.labels is None and image_folder.class_folders(path):
        return image_folder.load_class_folders(path, num_classes, class_map)
    return image_folder.load_flat(path, where.labels, class_map)
