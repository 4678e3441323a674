"""Labels of images that lie in one flat folder: the devkit's ground truth, Kaggle's solution file, or a plain list."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.class_map import SYNSET, imagenet_synsets
from rmeeto_bench.errors import DataError

KNOWN = (
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "val.txt",
    "labels.txt",
)
PLACES = ("", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
META = "meta.mat"
REMEDY = "give its labels with --labels FILE (the devkit's ground truth, or lines of `file class`)"


def find_label_file(folder: Path) -> Path | None:
    """A label file under one of its usual names, in the folder or beside it."""
    for base in (folder, folder.parent):
        for place in PLACES:
            for name in KNOWN:
                if (base / place / name).is_file():
                    return base / place / name
    return None


def devkit_classes(meta: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> synset from the devkit's meta.mat; the ids are not the class numbers of any model.

    Raises `DataError`.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(rows) if int(row["num_children"]) == 0}
    except (OSError, MatReadError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{meta} is no meta.mat of the ILSVRC2012 devkit ({error}); unpack the devkit again") from error


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the labels in {path} ({error}); {REMEDY}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("ImageId,"):  # Kaggle: ImageId,PredictionString with "synset x y x y" boxes
        return [[row[0], row[1].split()[0]] for row in csv.reader(lines[1:]) if len(row) > 1 and row[1].split()]
    return [re.split(r"[\s,]+", line.strip()) for line in lines]


def _class_of(word: str, path: Path, class_map: dict[str, int] | None) -> int:
    if class_map is not None and word in class_map:
        return class_map[word]
    if class_map is None and SYNSET.fullmatch(word):
        synsets = imagenet_synsets()
        if word in synsets:
            return synsets[word]
    if word.isdecimal():
        return int(word)
    raise DataError(f"{path} has the class {word!r}, which is no class of the model; give its --class-map FILE")


def read_labels(path: Path, names: Sequence[str], class_map: dict[str, int] | None = None) -> NDArray[np.int64]:
    """The labels int64 [N] of images by file name, from a label file of one of these forms.

    Lines of `file class`; one synset a line, in the order of the file names; one ILSVRC2012_ID a line (the devkit's
    ground truth), with meta.mat in the same folder. Raises `DataError` if a label is missing or its meaning a guess.
    """
    rows = _rows(path)
    if rows and all(len(row) >= 2 for row in rows):
        words = {Path(row[0]).stem: row[1] for row in rows}
        missing = [name for name in names if Path(name).stem not in words]
        if missing:
            raise DataError(f"{path} has no label for {missing[0]} ({len(missing)} images without); {REMEDY}")
        ordered = [words[Path(name).stem] for name in names]
    else:
        if len(rows) != len(names):
            raise DataError(f"{path} has {len(rows)} labels for {len(names)} images; it belongs to another set; {REMEDY}")
        ordered = [row[0] for row in rows]
        if class_map is None and all(word.isdecimal() for word in ordered):
            meta = path.parent / META
            if not meta.is_file():
                raise DataError(
                    f"{path} numbers its classes by ILSVRC2012_ID, which are not the model's numbers; put the devkit's "
                    f"{META} beside it"
                )
            ids = devkit_classes(meta)
            unknown = next((word for word in ordered if int(word) not in ids), None)
            if unknown is not None:
                raise DataError(f"{path} has the id {unknown}, {meta} does not; both must be of the same devkit")
            ordered = [ids[int(word)] for word in ordered]
    known: dict[str, int] = {}
    for word in ordered:
        if word not in known:
            known[word] = _class_of(word, path, class_map)
    return np.array([known[word] for word in ordered], np.int64)
