"""Image files in a folder: one folder per class, or all in one with a file of labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.class_map import ClassMap, read_class_map
from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.label_files import REMEDY, find_label_file, read_labels
from rmeeto_bench.data.layouts.listing import Listing
from rmeeto_bench.data.left_out import EMPTY_CLASS, NO_CLASS, NO_FOLDER, NOT_AN_IMAGE, UNKNOWN_CLASS
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.preprocessing import ENDINGS
from rmeeto_bench.data.source import ChangedError
from rmeeto_bench.errors import DataError, printable


@dataclass(frozen=True)
class FileSource:
    """A `Source` of one file per image."""

    name: str  # what a report calls it
    root: Path  # folder that was given
    # Of the images, below `root`.
    paths: tuple[str, ...]
    labels: NDArray[np.int64]  # int64 [N]
    # Size in bytes and time of change in ns of each file when it was listed, int64 [N, 2].
    stamps: NDArray[np.int64]
    # The folders listed, with their times of change in ns.
    folders: tuple[tuple[Path, int], ...]
    problems: tuple[Problem, ...] = ()  # found when it was listed
    notes: tuple[str, ...] = ()  # sentences about what was decided

    def locate(self, index: int) -> str:
        """Path of the file."""
        return printable(str(self.root / self.paths[index]))

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises `ChangedError` if it was written or removed after the listing."""
        path = self.root / self.paths[index]
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                if (state.st_size, state.st_mtime_ns) != tuple(self.stamps[index].tolist()):
                    raise ChangedError("the file was changed while the data set was read")
                return file.read()
        except FileNotFoundError as error:
            raise ChangedError("the file vanished while the data set was read") from error

    def changed(self) -> str | None:
        """The first folder whose files were added or removed since the listing, as a sentence, or None."""
        for folder, modified_ns in self.folders:
            try:
                now = folder.stat().st_mtime_ns
            except OSError:
                return f"{printable(str(folder))} vanished while it was read"
            if now != modified_ns:
                return f"files were added to or removed from {printable(str(folder))} while it was read"
        return None


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted. Raises `DataError`."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; give a folder of images") from error


def trained_on(folder: Path, class_map: Path | None = None) -> Classes:
    """The classes of a training set: its class folders, with the numbers of the map, or those that an evaluation gives them.

    Raises `DataError`, also for a folder that the map does not name.
    """
    names = class_folders(folder)
    if not names:
        raise DataError(f"{folder} has no class folders; sort the files into one folder per class first")
    if class_map is not None:
        given = Classes(len(names), read_class_map(class_map, len(names)))
        return Classes(len(names), ClassMap(given.number_all(names, str(folder)).label_of, {}), trained=True)
    if all(name.isdecimal() for name in names) and {int(name) for name in names} != set(range(len(names))):
        label_of = {name: index for index, name in enumerate(sorted(names, key=int))}
    else:
        label_of = Classes(len(names)).number(names, str(folder), folders=True).label_of
    if len(label_of) < len(names) or len(set(label_of.values())) < len(names):
        label_of = {name: index for index, name in enumerate(names)}
    return Classes(len(names), ClassMap(label_of, {}), trained=True)


def load_class_folders(folder: Path, classes: Classes, endings: tuple[str, ...] = ENDINGS) -> FileSource:
    """The images under `folder/<class>/`, however deep, sorted by path. Raises `DataError` if labels would be guessed."""
    names = class_folders(folder)
    numbering = classes.number(names, str(folder), folders=True)
    top = Listing()
    top.add(folder, "", endings, deep=False)
    listing = Listing(folders=top.folders, problems=top.problems)
    listing.problems += [NO_CLASS.at(folder / name) for name in top.files]
    for name in numbering.unknown:
        other = Listing()
        other.add(folder, name, endings)
        listing.problems += [UNKNOWN_CLASS.at(folder / path) for path in other.files]
    missing = [NO_FOLDER.at(name) for name in numbering.missing]
    labels: dict[str, int] = {}
    for name, label in sorted(numbering.label_of.items()):
        added = listing.add(folder, name, endings)
        if not added:
            listing.problems.append(EMPTY_CLASS.at(folder / name))
        labels |= dict.fromkeys(list(listing.files)[len(listing.files) - added :], label)
    if not labels:
        raise DataError(f"{folder} holds no files to evaluate ({', '.join(endings)}); give a folder for each class")
    if classes.trained:  # a validation set may lack classes; the trained model still has the right numbers
        missing = [Problem(-1, problem.path, problem.reason, skipped=False) for problem in missing]
    notes = () if numbering.note is None else (numbering.note,)
    return source_of(folder.name, folder, labels, listing, (*listing.problems, *missing), notes)


def source_of(
    name: str, root: Path, labels: dict[str, int], listing: Listing, problems: tuple[Problem, ...], notes: tuple[str, ...]
) -> FileSource:
    """The files that have a label, sorted by path."""
    paths = tuple(sorted(labels))
    stamps = np.array([listing.files[path] for path in paths], np.int64).reshape(-1, 2)
    numbers = np.array([labels[path] for path in paths], np.int64)
    return FileSource(printable(name), root, paths, numbers, stamps, tuple(listing.folders), problems, notes)


def load_unlabelled(folder: Path, classes: int) -> FileSource:
    """The images in `folder`, however deep, for speed alone: labels mean nothing. Raises `DataError` if there are none."""
    listing = Listing()
    listing.add(folder, "", ENDINGS)
    if not listing.files:
        raise DataError(f"{folder} holds no images ({', '.join(ENDINGS)}); check --data")
    labels = {path: index % classes for index, path in enumerate(sorted(listing.files))}
    return source_of(folder.name, folder, labels, listing, tuple(listing.problems), ())


def load_flat(folder: Path, label_file: Path | None, classes: Classes) -> FileSource:
    """The images in `folder`, however deep, with labels from a file. Raises `DataError` if there is none."""
    listing = Listing()
    listing.add(folder, "", ENDINGS)
    if not listing.files:
        raise DataError(f"{folder} holds neither class folders, images, .parquet nor .tar files; check --data")
    found = label_file or find_label_file(folder)
    if found is None:
        raise DataError(f"{folder} has no class folders and no file of labels; {REMEDY}")
    read = read_labels(found, sorted(listing.files), classes)
    notes = read.notes if label_file else (f"labels are read from {printable(str(found))}", *read.notes)
    itself = NOT_AN_IMAGE.at(found)  # the list may lie in the folder
    problems = (*(problem for problem in listing.problems if problem != itself), *read.problems)
    return source_of(folder.name, folder, read.label_of, listing, problems, notes)
