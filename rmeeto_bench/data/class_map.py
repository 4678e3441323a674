"""Which class name is which output of the model: never guessed from what happens to lie on the disk."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rmeeto_bench.errors import DataError

SYNSET = re.compile(r"n\d{8}")
SYNSET_FILE = Path("data") / "_info" / "imagenet_synsets.txt"
IMAGENET_CLASSES = 1000
SHOWN = 3


def imagenet_synsets() -> dict[str, int]:
    """The 1,000 synsets in the order of every published model: alphabetical. From timm's files, without importing it.

    Raises `DataError` if timm's list is not what it has to be.
    """
    spec = importlib.util.find_spec("timm")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(places[0]) / SYNSET_FILE if places else SYNSET_FILE
    try:
        names = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError("timm's list of ImageNet synsets is missing; install timm again or give --class-map FILE") from error
    if len(names) != IMAGENET_CLASSES or names != sorted(set(names)):
        raise DataError("timm's list of ImageNet synsets is damaged; install timm again or give --class-map FILE")
    return {name: index for index, name in enumerate(names)}


def read_class_map(path: Path, num_classes: int) -> dict[str, int]:
    """A class map: JSON `{"name": index}`, lines `name index` (or with a comma), or one name per line in class order.

    Raises `DataError` unless it names every class from 0 to `num_classes` - 1.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if text.lstrip().startswith("{") else None
        if value is not None:
            pairs = [(str(name), int(index)) for name, index in value.items()]
        else:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            split = [re.split(r"[\s,]+(?=\d+$)", line) for line in lines]
            numbered = all(len(words) == 2 for words in split)
            pairs = [(w[0], int(w[1])) for w in split] if numbered else [(line, i) for i, line in enumerate(lines)]
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise DataError(f"cannot read the class map {path} ({error}); write one class name per line, in class order") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DataError(f"the class map {path} names a class twice; each has one line")
    if not set(range(num_classes)) <= set(found.values()):
        raise DataError(
            f"the class map {path} numbers {len(set(found.values()))} classes, the model has {num_classes} "
            f"(0 to {num_classes - 1}); give the model's own"
        )
    return found


def _shown(names: Sequence[str]) -> str:
    text = ", ".join(names[:SHOWN])
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN} more"


def _numbers(names: Sequence[str], num_classes: int, where: Path) -> dict[str, int]:
    """Folders named 0 to `num_classes` - 1; the alphabet would put 10 before 2."""
    found = {name: int(name) for name in names}
    if max(found.values()) >= num_classes:
        raise DataError(
            f"{where} has a class folder {max(found.values())}, the model's classes are 0 to {num_classes - 1}; "
            "say which is which with --class-map FILE"
        )
    return found | {str(index): index for index in range(num_classes) if index not in found.values()}


def number_folders(
    names: Sequence[str], num_classes: int, class_map: dict[str, int] | None, where: Path
) -> tuple[dict[str, int], list[str]]:
    """(class folder -> label, what is missing or too many) for the class folders of a data set.

    In this order: the map given; ImageNet's synsets; folders named by the class number itself; the alphabet, only if
    there are exactly as many folders as classes. Raises `DataError` where numbering would be a guess.
    """
    synsets = [name for name in names if SYNSET.fullmatch(name)]
    if class_map is None and num_classes == IMAGENET_CLASSES and len(synsets) > len(names) // 2:
        class_map = imagenet_synsets()
    if class_map is None and all(name.isdecimal() for name in names):
        class_map = _numbers(names, num_classes, where)
    if class_map is None:
        if len(names) != num_classes:
            raise DataError(
                f"{where} has {len(names)} class folders, the model {num_classes} classes: labels would be numbered "
                "wrongly; give the complete validation set, or say which is which with --class-map FILE"
            )
        return {name: index for index, name in enumerate(sorted(names))}, []
    extra = sorted(set(names) - set(class_map))
    present = {class_map[name] for name in names if name in class_map}
    missing = sorted(name for name, index in class_map.items() if index not in present)
    faults = []
    if extra:
        faults.append(f"{len(extra)} class folders too many, which the class map does not know: {_shown(extra)}")
    if missing:
        faults.append(f"{len(missing)} class folders missing: {_shown(missing)}")
    if not present:
        raise DataError(f"{where}: none of its folders ({_shown(extra)}) is a class of the model; give its --class-map FILE")
    return {name: class_map[name] for name in names if name in class_map}, faults
