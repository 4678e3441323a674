"""Kinetics-400 in its usual layouts: a list of `path,label`, or a folder of videos per class."""

from __future__ import annotations

from pathlib import Path

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.image_folder import FileSource, class_folders, load_class_folders, source_of, trained_on
from rmeeto_bench.data.layouts.label_files import lines_in, pairs_in, whole
from rmeeto_bench.data.layouts.listing import Listing
from rmeeto_bench.data.left_out import LISTED_TWICE, NOT_THERE
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.table import columns, split_at_file
from rmeeto_bench.errors import DataError

WRITE = "write lines of `path,label` with class numbers, or names of a --class-map"
ANY = 10**6  # more classes than any list has: its labels say how many there are

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
LISTS = {
    "val": ("val.csv", "val.txt", "val.list", "kinetics400_val_list_videos.txt", "validate.csv", "test.csv"),
    "train": ("train.csv", "train.txt", "train.list", "kinetics400_train_list_videos.txt"),
}
BESIDE = {
    "val": ("", "val", "videos", "videos_val", "val_256", "train"),
    "train": ("", "train", "videos", "videos_train", "train_256"),
}
TRIED = 50  # videos looked for to find the folder a list is relative to: every copy of Kinetics lacks some


def find_list(path: Path, split: str = "val") -> Path | None:
    """The list itself, or the split's list (`train` or `val`) under one of its usual names in a folder."""
    if path.is_file():
        return path
    return next((path / name for name in LISTS[split] if (path / name).is_file()), None)


def load_list(path: Path, classes: Classes, split: str = "val") -> FileSource:
    """The videos of a list; those not on the disk are problems, as every copy of Kinetics lacks some. Raises `DataError`."""
    lines = lines_in(path)
    bases = [path.parent / name for name in BESIDE[split]]
    first = _named(lines)
    root = next((base for base in bases if any((base / name).is_file() for name in first)), None)
    if root is None:
        named = bases[0] / first[0] if first else "it names none"
        raise DataError(f"none of the first videos of {path} is there ({named}); put the list beside them")
    pairs = pairs_in(path, lines, lambda name: name.lower().endswith(ENDINGS) or (root / name).is_file(), classes)
    if pairs is None:
        raise DataError(f"{path} has no column of classes; {WRITE}")
    words, problems = dict[str, str](), list[Problem]()
    listing = Listing()
    for name, word in pairs.rows:
        if words.setdefault(name, word) != word:
            raise DataError(f"{path} gives {name} the classes {words[name]} and {word}; keep one line for each video")
    problems += [LISTED_TWICE.at(path)] * (len(pairs.rows) - len(words))
    for name in words:
        try:
            state = (root / name).stat()
        except OSError:
            problems.append(NOT_THERE.at(root / name))
        else:
            listing.files[name] = (state.st_size, state.st_mtime_ns)
    numbering = classes.number_all([whole(word) for word in words.values()], str(path))
    labels = {name: numbering.label_of[whole(words[name])] for name in listing.files}
    notes = tuple(note for note in (pairs.note, numbering.note) if note)
    title = f"{path.name}, {len(labels)} of {len(words)} videos"
    return source_of(title, root, labels, listing, tuple(problems), notes)


def _named(lines: list[str]) -> list[str]:
    """Every cell of the first lines that could be the path of a video."""
    rows = columns(lines) or [split_at_file(line, lambda name: name.lower().endswith(ENDINGS)) for line in lines]
    return [cell for row in rows[:TRIED] for cell in row if cell and not whole(cell).isdecimal()]


def find_videos(path: Path, classes: Classes, split: str = "val") -> FileSource:
    """The videos of the split behind `--data`: a list, a folder with one, or a folder per class. Raises `DataError`."""
    found = find_list(path, split)
    if found is not None:
        return load_list(found, classes, split)
    if not path.is_dir():
        raise DataError(f"{path} is no folder and no list of videos; give lines of `path,label`")
    if (path / split).is_dir():
        return find_videos(path / split, classes, split)
    if not class_folders(path):
        raise DataError(f"{path} has neither a list ({', '.join(LISTS[split])}) nor class folders; give lines of `path,label`")
    return load_class_folders(path, classes, ENDINGS)


def training_classes(path: Path) -> Classes:
    """The classes of the training videos in a folder, by the labels of its list or its class folders. Raises `DataError`."""
    for folder in (path, path / "train"):
        found = find_list(folder, "train") if folder.is_dir() else None
        if found is not None:
            labels = load_list(found, Classes(ANY), "train").labels
            return Classes(1 + int(labels.max(initial=-1)))
    if not (path / "train").is_dir():
        raise DataError(f"{path} has neither {LISTS['train'][0]} nor train/; training needs one of them, and the same of val")
    return trained_on(path / "train")
