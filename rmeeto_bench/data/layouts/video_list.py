"""Kinetics-400 as labs have it: a list of `path,label`, or a folder of videos per class."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from rmeeto_bench.data.class_map import read_class_map
from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.image_folder import LISTING_SLACK_NS, FileSource, class_folders, load_class_folders
from rmeeto_bench.errors import DataError

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
    """The list itself, or the one of the split (`train` or `val`) under a usual name in a folder."""
    if path.is_file():
        return path
    return next((path / name for name in LISTS[split] if (path / name).is_file()), None)


def read_list(path: Path) -> list[tuple[str, int]]:
    """(path, label) by line, with a comma or a space between. Raises `DataError`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path} ({error}); write lines of `path,label`") from error
    found = []
    for number, line in enumerate(lines, 1):
        name, _, label = line.rpartition("," if "," in line else " ")
        if not name or not label.strip().isdecimal():
            raise DataError(f"line {number} of {path} is {line[:60]!r}; write lines of `path,label`")
        found.append((name.strip(), int(label)))
    if not found:
        raise DataError(f"the list {path} is empty; write lines of `path,label`")
    return found


def load_list(path: Path, split: str = "val") -> FileSource:
    """The videos of a list; those not on the disk are problems, as every copy of Kinetics lacks some. Raises `DataError`."""
    listed = time.time_ns() + LISTING_SLACK_NS
    rows = read_list(path)
    bases = [path.parent / name for name in BESIDE[split]]
    root = next((base for base in bases if any((base / name).is_file() for name, _ in rows[:TRIED])), None)
    if root is None:
        raise DataError(f"none of the first videos of {path} is there ({bases[0] / rows[0][0]}); put the list beside them")
    problems: list[Problem] = []
    kept: dict[str, int] = {}
    for name, label in rows:
        if name in kept:
            problems.append(Problem(-1, str(root / name), f"it is in {path.name} twice and counts once"))
        elif not (root / name).is_file():
            problems.append(Problem(-1, str(root / name), f"listed in {path.name}, but not there"))
        else:
            kept[name] = label
    labels = np.array(list(kept.values()), np.int64)
    title = f"{path.name}, {len(kept)} of {len(dict(rows))} videos"
    return FileSource(title, root, tuple(kept), labels, (), listed, tuple(problems))


def find_videos(path: Path, num_classes: int, class_map: Path | None, split: str = "val") -> FileSource:
    """The videos of the split behind `--data`: a list, a folder with one, or a folder per class. Raises `DataError`."""
    found = find_list(path, split)
    if found is not None:
        return load_list(found, split)
    if not path.is_dir():
        raise DataError(f"{path} is no folder and no list of videos; give lines of `path,label`")
    if (path / split).is_dir():
        return find_videos(path / split, num_classes, class_map, split)
    if not class_folders(path):
        raise DataError(f"{path} has neither a list ({', '.join(LISTS[split])}) nor class folders; give lines of `path,label`")
    names = None if class_map is None else read_class_map(class_map, num_classes)
    return load_class_folders(path, num_classes, names, ENDINGS)


def count_classes(path: Path) -> int:
    """Classes of the training videos in a folder: by the labels of its list, or by its class folders. Raises `DataError`."""
    for folder in (path, path / "train"):
        found = find_list(folder, "train") if folder.is_dir() else None
        if found is not None:
            return 1 + max(label for _, label in read_list(found))
    if not (path / "train").is_dir():
        raise DataError(f"{path} has neither {LISTS['train'][0]} nor train/; training wants one of them, and the same of val")
    return len(class_folders(path / "train"))
