"""Find the image set that `--data` names: the bundled one, Fashion-MNIST files, or images in any common layout."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

from rmeeto_bench.data.class_map import ClassMap, read_class_map
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.data.layouts import fashion_mnist, image_folder, parquet, tar_shards
from rmeeto_bench.data.layouts.video import VideoViews
from rmeeto_bench.data.layouts.video_list import find_videos
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.preprocessing import preprocessing_for
from rmeeto_bench.data.reading import Reading, image_set
from rmeeto_bench.data.source import Source
from rmeeto_bench.errors import DataError, printable

SPLITS = ("val", "validation")
OTHER_SPLITS = ("train", "test")
LARGEST_BUNDLED = 224  # pixels a side; in memory, all bundled images of this size take half a gigabyte
WRITTEN_AS = "give a folder of images by class, or of Fashion-MNIST files, .parquet or .tar shards"


@dataclass(frozen=True)
class Where:
    """What to read besides the path."""

    labels: Path | None = None  # file of the labels of a flat folder
    class_map: Path | None = None  # file that gives class names their numbers
    names: tuple[str, ...] = ()  # classes in the order of the head, as the checkpoint of the model has them
    unlabelled: bool = False  # no answer is judged, so images of any classes will do


def find_data(
    path: Path | None,
    *,
    shape: tuple[int, ...],
    num_classes: int,
    images: int | None,
    where: Where | None = None,
    reading: Reading | None = None,
) -> ImageSet | None:
    """The evaluation set for a model of this input shape, or None if no path is given and the bundled set doesn't fit. Bundled
    images are resized for a model of another image size.

    A shape of four, (channels, frames, height, width), takes videos, in the views of the published evaluation.
    `images` keeps that many, in the class proportions of the whole. Raises `DataError`.
    """
    if path is None:
        if where is not None and (where.labels or where.class_map):
            raise DataError("--labels and --class-map belong to a data set of your own; give it with --data")
        if shape[0] != 1 or num_classes != len(fashion_mnist.CLASSES) or shape[-1] > LARGEST_BUNDLED:
            return None
        bundled = fashion_mnist.load("test")
        return (bundled if images is None else bundled.subset(images)).resized(shape[-1])
    reading, where = reading or Reading(), where or Where()
    classes = classes_of(num_classes, where)
    if len(shape) == 4:
        _own_labels(where, "videos have their classes from their list or folders")
        videos = find_videos(path, classes)
        clips = image_set(videos, VideoViews(shape[-1], shape[1]), num_classes, reading)
        return clips if images is None else clips.subset(images)
    if path.is_dir() and fashion_mnist.is_fashion_mnist(path):
        _own_labels(where, f"{path} has labels of its own")
        if classes.given is not None:
            raise DataError(f"{path} has class numbers, not names; leave --class-map out")
        files = fashion_mnist.load("test", path)
        return files if images is None else files.subset(images)
    prepared = reading.preprocessing or preprocessing_for(shape)
    found = image_set(find_source(path, classes, where), prepared, num_classes, reading)
    return found if images is None else found.subset(images)


def classes_of(num_classes: int, where: Where) -> Classes:
    """The model's classes, with the map that was given. Raises `DataError`."""
    if where.class_map is not None:
        return Classes(num_classes, read_class_map(where.class_map, num_classes))
    return Classes(num_classes, own=ClassMap.of([(name, index) for index, name in enumerate(where.names)]))


def _own_labels(where: Where, reason: str) -> None:
    if where.labels is not None:
        raise DataError(f"--labels {where.labels} has no use: {reason}; leave it out")


def _validation(paths: list[Path], folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The files of the validation split, by their names, and a note if others are there."""
    chosen = [path for path in paths if any(split in path.name.lower() for split in SPLITS)]
    if not chosen:
        other = [path for path in paths if any(split in path.name.lower() for split in OTHER_SPLITS)]
        if other:
            raise DataError(
                f"{folder} has no file of the validation split, only {other[0].name} and the like; download that split"
            )
        return paths, ()
    if len(chosen) == len(paths):
        return paths, ()
    note = f"{len(chosen)} of {len(paths)} {chosen[0].suffix} files in {folder} are of the validation split and used"
    return chosen, (printable(note),)


def _files(path: Path) -> tuple[list[Path], Path, tuple[str, ...]]:
    """(the data files behind a path or pattern, sorted, their folder, notes). A path that exists is no pattern."""
    if path.is_file():
        return [path], path.parent, ()
    if not path.is_dir():
        if not any(mark in str(path) for mark in "*?["):
            raise DataError(f"{path} is no folder and no file; {WRITTEN_AS}")
        text = str(Path(glob.escape(str(path.parent))) / path.name) if path.parent.is_dir() else str(path)
        found = sorted(Path(name) for name in glob.glob(text))
        if not found:
            raise DataError(f"no file matches {path}; check --data")
        return found, path.parent, ()
    for folder in (path, path / "data"):
        by_ending = {ending: sorted(folder.glob(f"*.{ending}")) for ending in ("parquet", "tar")}
        for ending, found in by_ending.items():
            if found:
                chosen, notes = _validation(found, folder)
                if ending == "parquet" and by_ending["tar"]:
                    notes += (
                        printable(f"the .parquet files in {folder} are used, its {len(by_ending['tar'])} .tar files are not"),
                    )
                return chosen, folder, notes
    return [], path, ()


def find_source(path: Path, classes: Classes, where: Where) -> Source:
    """List the images at `path`, in any known layout. Raises `DataError`."""
    files, folder, notes = _files(path)
    if files:
        name = files[0].name if path.is_file() else folder.resolve().name
        if all(file.suffix == ".parquet" for file in files):
            _own_labels(where, "the .parquet files have labels of their own")
            source: Source = parquet.load(files, name, classes)
        elif all(".tar" in file.suffixes or file.suffix == ".tgz" for file in files):
            _own_labels(where, "the .tar files have labels of their own")
            source = tar_shards.load(files, name, classes)
        else:
            raise DataError(f"{files[0]} is neither a .parquet nor a .tar file; {WRITTEN_AS}")
        return replace(source, notes=(*notes, *source.notes))  # type: ignore[type-var]
    for split in SPLITS:
        if (path / split).is_dir():
            return find_source(path / split, classes, where)
    if where.unlabelled and where.labels is None and where.class_map is None:
        return image_folder.load_unlabelled(path, classes.count)
    if where.labels is None and image_folder.class_folders(path):
        return image_folder.load_class_folders(path, classes)
    return image_folder.load_flat(path, where.labels, classes)
