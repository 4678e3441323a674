"""Image files in a folder: one folder per class, or all in one with a file of labels."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.class_map import number_folders
from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.label_files import REMEDY, find_label_file, read_labels
from rmeeto_bench.data.preprocessing import ENDINGS
from rmeeto_bench.data.source import ChangedError
from rmeeto_bench.errors import DataError

LISTING_SLACK_NS = 2_000_000_000  # clocks of file servers differ a little, and file systems round times


@dataclass(frozen=True)
class FileSource:
    """A `Source` of one file per image; paths are relative to `root`. `folders`: those listed, with their times of change."""

    name: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    folders: tuple[tuple[Path, int], ...]
    listed_ns: int
    problems: tuple[Problem, ...] = ()

    def locate(self, index: int) -> str:
        """The file."""
        return str(self.root / self.paths[index])

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises `ChangedError` if it was written or removed after the listing."""
        path = self.root / self.paths[index]
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mtime_ns > self.listed_ns:
                    raise ChangedError("the file was changed while the data set was read")
                return file.read()
        except FileNotFoundError as error:
            raise ChangedError("the file vanished while the data set was read") from error

    def changed(self) -> str | None:
        """A folder to which files were added, or from which some were removed."""
        for folder, modified_ns in self.folders:
            try:
                now = folder.stat().st_mtime_ns
            except OSError:
                return f"{folder} vanished while it was read"
            if now != modified_ns:
                return f"files were added to or removed from {folder} while it was read"
        return None


def _images_in(folder: Path, endings: tuple[str, ...] = ENDINGS) -> tuple[list[str], list[str]]:
    """(names of image files, names of other files) of a folder, sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; check its permissions") from error
    images = [name for name in names if name.lower().endswith(endings)]
    return images, [name for name in names if not name.lower().endswith(endings) and not name.startswith(".")]


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted. Raises `DataError`."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; give a folder of images") from error


def load_class_folders(
    folder: Path, num_classes: int, class_map: dict[str, int] | None, endings: tuple[str, ...] = ENDINGS
) -> FileSource:
    """The images under `folder/<class>/`, sorted by path. Raises `DataError` where labels would be a guess."""
    listed = time.time_ns() + LISTING_SLACK_NS
    names = class_folders(folder)
    label_of, faults = number_folders(names, num_classes, class_map, folder)
    problems = [Problem(-1, str(folder), fault) for fault in faults]
    paths: list[str] = []
    labels: list[int] = []
    for name, label in sorted(label_of.items()):
        images, others = _images_in(folder / name, endings)
        problems += [Problem(-1, str(folder / name / other), "it is no image") for other in others]
        if not images:
            problems.append(Problem(-1, str(folder / name), "the class folder is empty"))
        paths += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if not paths:
        raise DataError(f"{folder} holds no files to evaluate ({', '.join(endings)}); give a folder for each class")
    stamps = tuple((folder / name, (folder / name).stat().st_mtime_ns) for name in ("", *names))
    return FileSource(folder.name, folder, tuple(paths), np.array(labels, np.int64), stamps, listed, tuple(problems))


def load_flat(folder: Path, label_file: Path | None, class_map: dict[str, int] | None) -> FileSource:
    """The images directly in `folder`, with the labels of a file. Raises `DataError` without one: the classes would be lost."""
    listed = time.time_ns() + LISTING_SLACK_NS
    images, _ = _images_in(folder)
    if not images:
        raise DataError(f"{folder} holds neither class folders, images, .parquet nor .tar files; check --data")
    found = label_file or find_label_file(folder)
    if found is None:
        raise DataError(f"{folder} has no class folders and no file of labels; {REMEDY}")
    labels = read_labels(found, images, class_map)
    stamps = ((folder, folder.stat().st_mtime_ns),)
    return FileSource(folder.name, folder, tuple(images), labels, stamps, listed)
