"""Give the classes of a data set the model's numbers by name, without guessing from what the disk happens to hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rmeeto_bench.data.class_map import ClassMap, known_classes
from rmeeto_bench.errors import DataError, printable

SHOWN = 3


@dataclass(frozen=True)
class Numbering:
    """The class numbers of a data set's own class names."""

    # Class number of every name that has one.
    label_of: dict[str, int]
    # Names that are no class of the model.
    unknown: tuple[str, ...] = ()
    # Classes of the model that no name means, by their names.
    missing: tuple[str, ...] = ()
    # What was decided, in a sentence, where it was not the user's decision.
    note: str | None = None


@dataclass(frozen=True)
class Classes:
    """The classes as known before the data set is listed."""

    # Classes of the model.
    count: int
    # The --class-map, or the classes of the training set for its validation set.
    given: ClassMap | None = None
    # Whether `given` is of the training set.
    trained: bool = False
    # The model's own classes, as its checkpoint names them; empty where it does not.
    own: ClassMap = field(default_factory=lambda: ClassMap({}, {}))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers, where every one of them has a name."""
        by_number = {} if self.given is None else {index: name for name, index in self.given.names.items()}
        return tuple(by_number[number] for number in range(self.count)) if len(by_number) == self.count else ()

    def number(self, words: Iterable[str], where: str, *, folders: bool = False) -> Numbering:
        """Number the class names of a data set.

        In this order: the map given; the names in the model's checkpoint; names that are numbers; the names of ImageNet or
        Fashion-MNIST in any spelling; and for folders the alphabet, if there are exactly as many as classes. Raises
        `DataError` where it would be a guess.
        """
        names, where = sorted(set(words)), printable(where)
        numeric = all(name.isdecimal() for name in names)
        if self.given is not None:
            if numeric and not any(self.given.find(name) is not None for name in names):
                if folders:
                    raise DataError(f"{where}: {_none(names)}; give its --class-map FILE")
                note = f"{where} has class numbers, not names: --class-map was not needed, they are taken as the model's"
                return Numbering({name: int(name) for name in names}, note=note)
            return self._by(self.given, names, where)
        if (folders or not numeric) and any(self.own.find(name) is not None for name in names):
            return self._by(self.own, names, where)
        if numeric:
            return self._by_number(names, where) if folders else Numbering({name: int(name) for name in names})
        known = known_classes(self.count)
        if known is not None and sum(known.find(name) is not None for name in names) > len(names) / 2:
            return self._by(known, names, where)
        if not folders:
            word = next(name for name in names if not name.isdecimal())
            raise DataError(
                f"{where} has the class {printable(word)!r}, which is no class of the model; give its --class-map FILE"
            )
        if len(names) != self.count:
            raise DataError(
                f"{where} has {len(names)} class folders, the model {self.count} classes: labels would be numbered wrongly; "
                "give the complete validation set, or say which is which with --class-map FILE"
            )
        note = f"the class folders of {where} are numbered by the alphabet, {shown(names)}; --class-map FILE changes that"
        return Numbering({name: index for index, name in enumerate(names)}, note=note)

    def number_all(self, words: Iterable[str], where: str) -> Numbering:
        """The same for the labels of images. Raises `DataError` if one is no class of the model, too."""
        numbering = self.number(words, where)
        if numbering.unknown:
            raise _no_class(numbering.unknown[0], where)
        return numbering

    def _by(self, known: ClassMap, names: Sequence[str], where: str) -> Numbering:
        found = {name: index for name in names if (index := known.find(name)) is not None}
        if not found:
            whose = "the training set" if self.trained else "the model"
            remedy = "give both parts the same class folders" if self.trained else "give its --class-map FILE"
            raise DataError(f"{where}: {_none(names, whose)}; {remedy}")
        present = set(found.values())
        missing = tuple(name for name, index in known.names.items() if index not in present)
        return Numbering(found, tuple(name for name in names if name not in found), missing)

    def _by_number(self, names: Sequence[str], where: str) -> Numbering:
        """Folders named 0 to `count` - 1; the alphabet would put 10 before 2."""
        found = {name: int(name) for name in names}
        if max(found.values()) >= self.count:
            raise DataError(
                f"{where} has a class folder {max(found.values())}, the model's classes are 0 to {self.count - 1}; "
                "say which is which with --class-map FILE"
            )
        return Numbering(found, missing=tuple(str(i) for i in range(self.count) if i not in found.values()))


def shown(names: Sequence[str]) -> str:
    """The first few of many names, as text."""
    text = ", ".join(printable(name) for name in names[:SHOWN])
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN} more"


def _none(names: Sequence[str], whose: str = "the model") -> str:
    return f"none of its classes ({shown(names)}) is a class of {whose}"


def _no_class(word: str, where: str) -> DataError:
    return DataError(
        f"{printable(where)} has the class {printable(word)!r}, which is no class of the model; give its --class-map FILE"
    )
