"""Labels of images in one flat folder: the devkit's ground truth, Kaggle's solution file, or a plain list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmeeto_bench.data.class_map import IMAGENET_CLASSES
from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.left_out import LISTED_TWICE, NOT_LISTED, NOT_THERE
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.table import columns, folded, lines_of, natural, read_text, split_at_file, unquoted
from rmeeto_bench.errors import DataError, printable

KNOWN = (
    "ILSVRC2012_validation_ground_truth.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "val.txt",
    "labels.txt",
    "labels.csv",
    "metadata.csv",
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


LABEL_HEADERS = (
    "label",
    "labels",
    "class",
    "target",
    "category",
    "class id",
    "label id",
    "synset",
    "wnid",
    "predictionstring",
    "y",
)


@dataclass(frozen=True)
class Labels:
    """The contents of a label file."""

    # Class number by image.
    label_of: dict[str, int]
    problems: tuple[Problem, ...] = ()  # images and lines that do not fit together
    # What was decided about its form, in sentences.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """The files and class words of a list."""

    rows: tuple[tuple[str, str], ...]  # (file, class word) of each line
    note: str | None = None  # sentence that names the columns, if there was a choice


def lines_in(path: Path) -> list[str]:
    """The lines of a label file. Raises `DataError`."""
    try:
        return lines_of(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the labels in {path} ({error}); {REMEDY}") from error


def pairs_in(path: Path, lines: Sequence[str], is_file: Callable[[str], bool], classes: Classes) -> Pairs | None:
    """The list's files and class words, or None if no column names a file. Raises `DataError` if a column is a guess."""
    rows = columns(lines) or [split_at_file(line, is_file) for line in lines]
    if not rows:
        return None
    width = min(len(row) for row in rows)
    # A class number may be the stem of an image, 0.png: names with an ending count first.
    found = [[Path(row[column]).suffix != "" for row in rows if is_file(row[column])] for column in range(width)]
    hits = [(sum(endings), len(endings)) for endings in found]
    if max(hits) == (0, 0) or width < 2:
        return None
    at = hits.index(max(hits))
    header = None if is_file(rows[0][at]) else [folded(cell) for cell in rows[0]]
    wanted = [folded(word) for word in LABEL_HEADERS]
    titled = header is not None and any(cell in wanted for cell in header)
    body = rows[1:] if titled else rows
    others = [column for column in range(width) if column != at]
    if header is not None and titled:
        others = [column for column in others if header[column] in wanted]
    if titled and header is not None and "predictionstring" in header:  # Kaggle: "synset x y x y" of boxes
        body = [[*row[:at], row[at], *(cell.split()[0] if cell else "" for cell in row[at + 1 :])] for row in body]
    read = [(column, numbers) for column in others if (numbers := _numbers([row[column] for row in body], path, classes))]
    if len({tuple(numbers) for _, numbers in read}) > 1:
        raise DataError(f"{path} has {width} columns, and more than one could be the label; keep two: file and class")
    column = read[0][0] if read else others[0]
    note = None
    if len(rows[0]) > 2:
        name = f"{rows[0][column]!r}" if titled else str(column + 1)
        note = printable(f"the labels are column {name} of the {width} in {path.name}")
    return Pairs(tuple((row[at], row[column]) for row in body), note)


def _numbers(words: Sequence[str], path: Path, classes: Classes) -> list[int] | None:
    """The class numbers of a column, or None if it does not hold classes."""
    try:
        label_of = classes.number([whole(word) for word in words if word], str(path)).label_of
    except DataError:
        return None
    numbers = [label_of.get(whole(word), -1) for word in words]
    return numbers if all(number < classes.count for number in numbers) else None


def whole(word: str) -> str:
    """Strip the decimals with which a spreadsheet wrote a whole number."""
    return word.removesuffix(".0") if word.removesuffix(".0").isdecimal() else word


class _Names:
    """Finds images by the names that a list may use: path, file name, or file name without its ending."""

    def __init__(self, names: Sequence[str]) -> None:
        self._levels: list[dict[str, list[str]]] = [{}, {}, {}]
        for name in names:
            for level, key in zip(self._levels, (name, Path(name).name, Path(name).stem)):
                level.setdefault(key, []).append(name)

    def find(self, written: str) -> str | None:
        """The one image that a list means, or None."""
        path = Path(written.replace("\\", "/"))
        for level, key in zip(self._levels, (path.as_posix(), path.name, path.stem)):
            found = level.get(key, [])
            if len(found) == 1:
                return found[0]
        return None


def read_labels(path: Path, names: Sequence[str], classes: Classes) -> Labels:
    """The labels of images by file name, from a label file of one of these forms.

    Lines or rows of file and class, in any column and with a header or without; one class a line, in the order of the file
    names; one ILSVRC2012_ID a line (the devkit's ground truth), with meta.mat in the same folder. Raises `DataError` where
    the meaning of a label is a guess.
    """
    lines, images = lines_in(path), _Names(names)
    pairs = pairs_in(path, lines, lambda name: images.find(name) is not None, classes)
    if pairs is None:
        return _in_order(path, lines, names, classes)
    words: dict[str, str] = {}
    problems: list[Problem] = []
    for written, word in pairs.rows:
        name = images.find(written)
        if name is None:
            problems.append(NOT_THERE.at(written))
        elif words.setdefault(name, word) != word:
            raise DataError(f"{path} gives {written} the classes {words[name]} and {word}; keep one line for each file")
    repeated = len(pairs.rows) - len(problems) - len(words)
    problems += [LISTED_TWICE.at(path)] * repeated
    numbering = classes.number_all({whole(word) for word in words.values() if word}, str(path))
    label_of = {name: numbering.label_of[whole(word)] for name, word in words.items() if whole(word) in numbering.label_of}
    problems += [NOT_LISTED.at(name) for name in names if name not in label_of]
    return Labels(label_of, tuple(problems), tuple(note for note in (pairs.note, numbering.note) if note))


def _in_order(path: Path, lines: Sequence[str], names: Sequence[str], classes: Classes) -> Labels:
    """One class a line, for the images in the order of their names; numbers in names are ordered as numbers."""
    words = [whole(unquoted(line)) for line in lines]
    if len(words) == len(names) + 1 and folded(words[0]) in [folded(word) for word in LABEL_HEADERS]:
        words = words[1:]
    if len(words) != len(names):
        raise DataError(
            f"{path} has {len(words)} labels for {len(names)} images and names none; it belongs to another set; {REMEDY}"
        )
    if classes.count == IMAGENET_CLASSES and classes.given is None and all(w.isdecimal() and int(w) for w in words):
        words = _from_devkit(path, words)
    numbering = classes.number_all(words, str(path))
    ordered = sorted(names, key=natural)
    order = f"{path.name} names no files: its {len(words)} lines are paired with the images in the order of their names, "
    note = printable(order + ", ".join(ordered[:3]))
    notes = (note,) if numbering.note is None else (note, numbering.note)
    return Labels({name: numbering.label_of[word] for name, word in zip(ordered, words)}, notes=notes)


def _from_devkit(path: Path, words: Sequence[str]) -> list[str]:
    """Translate ILSVRC2012_IDs into synsets."""
    meta = path.parent / META
    if not meta.is_file():
        raise DataError(
            f"{path} numbers its classes by ILSVRC2012_ID, which are not the model's numbers; put the devkit's {META} beside it"
        )
    ids = devkit_classes(meta)
    unknown = next((word for word in words if int(word) not in ids), None)
    if unknown is not None:
        raise DataError(f"{path} has the id {unknown}, {meta} does not; both must be of the same devkit")
    return [ids[int(word)] for word in words]
