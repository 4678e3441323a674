"""Map class names to the outputs of a model: by a map that the user gives, or by a known data set's names."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rmeeto_bench.data.layouts.fashion_mnist import CLASSES
from rmeeto_bench.data.table import columns, folded, lines_of, read_text, unquoted
from rmeeto_bench.errors import DataError, printable

SYNSETS = Path("data") / "_info" / "imagenet_synsets.txt"
LEMMAS = SYNSETS.with_name("imagenet_synset_to_lemma.txt")
IMAGENET_CLASSES = 1000
HEADERS = {
    folded(word)
    for word in (
        "class", "name", "label", "category", "class name", "label name", "class id", "label id", "index", "idx", "id",
        "number", "wnid", "synset", "target", "description", "words", "human readable",
    )
}  # fmt: skip
WRITE = 'write one class name per line, in class order, or JSON {"name": index}'
Pairs = list[tuple[str, int]]


@dataclass(frozen=True)
class ClassMap:
    """Class numbers by name."""

    names: dict[str, int]  # name that was given -> class
    aliases: dict[str, int]  # other spelling -> class; each spelling means one class only

    @classmethod
    def of(cls, names: Pairs, *others: Pairs) -> ClassMap:
        """A map of these names, and of `others` where they mean one class."""
        exact = dict(names)
        aliases: dict[str, int] = {}
        for level in (*others, *([(folded(name), index) for name, index in pairs] for pairs in (names, *others))):
            meant: dict[str, set[int]] = {}
            for name, index in level:
                meant.setdefault(name, set()).add(index)
            for name, indices in meant.items():
                if name and len(indices) == 1:
                    aliases.setdefault(name, *indices)
        return cls(exact, aliases)

    def find(self, word: str) -> int | None:
        """The class of a name, in this or another spelling (`t-shirt_top`, `0_T-shirt`), or None."""
        for name in (word, folded(word), folded(re.sub(r"^\d+[\s_.\-:]+", "", word))):
            index = self.names.get(name, self.aliases.get(name))
            if index is not None:
                return index
        return None


def _timm_list(name: Path) -> list[str]:
    spec = importlib.util.find_spec("timm")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    try:
        return (Path(places[0]) / name if places else name).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError("timm's list of ImageNet synsets is missing; install timm again or give --class-map FILE") from error


def imagenet_synsets() -> dict[str, int]:
    """The 1,000 synsets in the order of every published model: alphabetical. From timm's files, without importing it.

    Raises `DataError` if timm's list is not what it has to be.
    """
    names = _timm_list(SYNSETS)
    if len(names) != IMAGENET_CLASSES or names != sorted(set(names)):
        raise DataError("timm's list of ImageNet synsets is damaged; install timm again or give --class-map FILE")
    return {name: index for index, name in enumerate(names)}


@cache
def known_classes(num_classes: int) -> ClassMap | None:
    """The names of ImageNet's or Fashion-MNIST's classes, for a model with as many classes."""
    if num_classes == len(CLASSES):
        parts = [(part, index) for index, name in enumerate(CLASSES) for part in name.split("/")]
        return ClassMap.of([(name, index) for index, name in enumerate(CLASSES)], parts)
    if num_classes != IMAGENET_CLASSES:
        return None
    synsets = imagenet_synsets()
    words = [line.partition("\t") for line in _timm_list(LEMMAS)]
    lemmas = [(lemma, synsets[synset]) for synset, _, lemma in words if synset in synsets]
    return ClassMap.of(list(synsets.items()), lemmas, [(part, i) for lemma, i in lemmas for part in lemma.split(", ")])


def read_class_map(path: Path, num_classes: int) -> ClassMap:
    """A class map: JSON (`{"name": index}`, `{index: name}`, `{index: [wnid, name]}` or a list in class order), lines with
    a name and a number in either order, or one name per line in class order, with a description after it or without.

    Raises `DataError` unless it names every class from 0 to `num_classes` - 1.
    """
    shown = printable(str(path))
    try:
        text = read_text(path)
        levels = _from_json(json.loads(text)) if text.lstrip()[:1] in "{[" and text.strip() else _from_lines(text, num_classes)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"cannot read the class map {shown} ({error}); {WRITE}") from error
    names = levels[0]
    if len(dict(names)) != len(names):
        raise DataError(f"the class map {shown} names a class twice; each has one line")
    if {index for _, index in names} != set(range(num_classes)):
        numbers = sorted({index for _, index in names})
        span = f" ({numbers[0]} to {numbers[-1]})" if numbers else ""
        raise DataError(
            f"the class map {shown} numbers {len(numbers)} classes{span}, the model has {num_classes} "
            f"(0 to {num_classes - 1}); give the model's own"
        )
    return ClassMap.of(*levels)


def _texts(value: Any) -> list[str]:
    """The names of one class: a text, a list of them, or an object with a name."""
    if isinstance(value, dict):
        value = [text for text in value.values() if isinstance(text, str)]
    return [value] if isinstance(value, str) else [str(text) for text in value]


def _levels(classes: Iterable[tuple[int, Sequence[str]]]) -> list[Pairs]:
    """(name, number) pairs by level: the first names of all classes, then their second names, and so on."""
    levels: list[Pairs] = []
    for index, names in classes:
        for level, name in enumerate(names):
            if level == len(levels):
                levels.append([])
            levels[level].append((name, index))
    return levels or [[]]


def _from_json(value: Any) -> list[Pairs]:
    if isinstance(value, dict):
        value = value.get("label2id", value.get("id2label", value))
    if isinstance(value, list):
        return _levels((index, _texts(names)) for index, names in enumerate(value))
    numbers = all(isinstance(index, (int, float, str)) and str(index).isdecimal() for index in value.values())
    if numbers:
        return [[(str(name), int(index)) for name, index in value.items()]]
    return _levels((int(index), _texts(names)) for index, names in value.items())


def _numbered(rows: Sequence[Sequence[str]], num_classes: int) -> list[Pairs] | None:
    """The map of rows of which one column holds the class numbers; its last such column if names are numbers, too."""
    found = []
    for column in range(len(rows[0])):
        cells = [row[column] for row in rows]
        if all(cell.isdecimal() for cell in cells) and {int(cell) for cell in cells} == set(range(num_classes)):
            found.append(column)
    if not found or len(rows[0]) < 2:
        return None
    names = [[cell for at, cell in enumerate(row) if at != found[-1]] for row in rows]
    maps = [_levels((int(row[column]), other) for row, other in zip(rows, names)) for column in found[-1:]]
    if len(found) > 1 and any(row[found[0]] != row[found[1]] for row in rows):
        raise ValueError("two of its columns number the classes")
    return maps[0]


def _from_lines(text: str, num_classes: int) -> list[Pairs]:
    lines = lines_of(text)
    for first in (0, 1):  # a header, or none
        body = lines[first:]
        if not body or (first and not _is_header(lines[0])):
            break
        cells = columns(body)
        forms = [cells] if cells else []
        for pattern in (r"(.+?)[\s,;:]+(\d+)", r"(\d+)[\s,;:]+(.+)"):
            matches = [re.fullmatch(pattern, line) for line in body]
            if all(matches):
                forms.append([[unquoted(cell) for cell in match.groups()] for match in matches if match])
        for form in forms:
            numbered = _numbered(form, num_classes)
            if numbered is not None:
                return numbered
    if lines and _is_header(lines[0]) and (len(lines) == num_classes + 1 or columns(lines)):
        lines = lines[1:]
    rows = columns(lines)
    fields = [(index, [unquoted(line), *(rows[index] if rows else []), line.split()[0]]) for index, line in enumerate(lines)]
    return _levels((index, list(dict.fromkeys(names))) for index, names in fields)


def _is_header(line: str) -> bool:
    return all(folded(unquoted(cell)) in HEADERS for cell in re.split(r"[\t;,]", line))
