"""Images in tar shards as webdataset writes them: `KEY.jpg` beside `KEY.cls`. They are read in place, without unpacking."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.layouts.label_files import whole
from rmeeto_bench.data.layouts.listing import OTHER_IMAGES
from rmeeto_bench.data.left_out import (
    FOREIGN_FORMAT,
    HIDDEN,
    LABEL_ALONE,
    LINKED,
    NOT_AN_IMAGE,
    NOT_LISTED,
    SAME_KEY,
    TOO_LARGE,
    TWICE,
)
from rmeeto_bench.data.numbering import Classes
from rmeeto_bench.data.preprocessing import ENDINGS
from rmeeto_bench.data.source import Stamp
from rmeeto_bench.errors import DataError, printable

MOST_BYTES = 2**28  # of one member; no encoded image comes near
MOST_HEADER = 2**16  # bytes of a name or label
BLOCK = 512
LABEL_ENDINGS = (".cls", ".json")


@dataclass(frozen=True)
class Member:
    """One image in a shard."""

    shard: int  # index of the shard
    name: str  # in the shard
    offset: int  # of its first byte in the shard
    size: int  # bytes


@dataclass(frozen=True)
class TarSource:
    """A `Source` over uncompressed tar files."""

    name: str  # what a report calls it
    shards: tuple[Stamp, ...]  # as they were when listed
    members: tuple[Member, ...]  # images, in the order of the set
    labels: NDArray[np.int64]  # int64 [N]
    problems: tuple[Problem, ...] = ()  # found when it was listed
    notes: tuple[str, ...] = ()  # sentences about what was decided
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False, compare=False)  # shard -> its open file; one at a time

    def locate(self, index: int) -> str:
        """Shard and member."""
        member = self.members[index]
        return printable(f"{self.shards[member.shard].path}:{member.name}")

    def read(self, index: int) -> bytes:
        """The member's bytes, from a file that stays open. Raises `ChangedError` if the shard is not the one listed."""
        member = self.members[index]
        stamp = self.shards[member.shard]
        stamp.check()
        file = self._open.get(member.shard)
        if file is None:
            for other in self._open.values():  # images come in order: one shard at a time
                other.close()
            self._open.clear()
            file = self._open[member.shard] = stamp.path.open("rb")
        return os.pread(file.fileno(), member.size, member.offset)  # forked readers share the file's position

    def changed(self) -> str | None:
        """The first shard that changed since the listing, as a sentence, or None."""
        return next((reason for stamp in self.shards if (reason := stamp.changed()) is not None), None)

    def __getstate__(self) -> dict[str, object]:
        """The state without open files: each worker process opens its own."""
        return {**self.__dict__, "_open": {}}


class _Bounded(io.BufferedReader):
    """A shard whose headers are read piece by piece. A header that claims to be longer than any name is refused."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes is longer than any name")
        return super().read(size)


def _word(ending: str, data: bytes) -> str | None:
    """The class in a `.cls` or `.json` member, a number or a name, or None."""
    try:
        if ending == ".cls":
            return whole(data.decode("utf-8").strip()) or None
        value = json.loads(data)
        value = value.get("label", value.get("cls"))
        return None if value is None or isinstance(value, (bool, dict, list)) else whole(str(value))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _members(archive: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """The archive's complete members; a truncated one raises `tarfile.ReadError`."""
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined] # tarfile keeps every header it has seen
        if info.offset_data + info.size > size and not info.issparse():
            raise tarfile.ReadError(f"{printable(info.name)} is cut off")
        if not info.isdir():
            yield info


@dataclass
class _Shard:
    """The contents of one shard by key."""

    path: Path  # of the shard
    number: int  # index of the shard
    images: dict[str, Member] = field(default_factory=dict)  # key -> image
    words: dict[str, str] = field(default_factory=dict)  # key -> class word
    problems: list[Problem] = field(default_factory=list)  # found while it was read

    def add(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        """Take a member into the listing, or note why not."""
        folder, _, base = info.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if f".{extension.lower()}" not in (*ENDINGS, *LABEL_ENDINGS):  # dots in the key itself
            stem, _, extension = base.rpartition(".")
        key, ending, place = f"{folder}/{stem}", f".{extension.lower()}", f"{self.path}:{info.name}"
        if base.startswith("."):
            self.problems.append(HIDDEN.at(place))
        elif ending in OTHER_IMAGES:
            self.problems.append(FOREIGN_FORMAT.at(place))
        elif ending not in (*ENDINGS, *LABEL_ENDINGS):
            self.problems.append(NOT_AN_IMAGE.at(place))
        elif not info.isreg() or info.issparse():
            self.problems.append(LINKED.at(place))
        elif info.size > (MOST_BYTES if ending in ENDINGS else MOST_HEADER):
            self.problems.append(TOO_LARGE.at(place))
        elif ending in ENDINGS and key in self.images:
            self.problems.append(SAME_KEY.at(place))
        elif ending in ENDINGS:
            self.images[key] = Member(self.number, info.name, info.offset_data, info.size)
        elif key not in self.words:
            file = archive.extractfile(info)
            word = None if file is None else _word(ending, file.read())
            if word is not None:
                self.words[key] = word


def _index(path: Path, number: int) -> _Shard:
    """List a shard, as far as it can be read."""
    shard = _Shard(path, number)
    size = path.stat().st_size
    if size == 0:
        shard.problems.append(Problem(-1, printable(str(path)), "the file is empty"))
        return shard
    try:
        with _Bounded(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in _members(archive, size):
                shard.add(archive, info)
            ended = archive.offset + BLOCK <= size  # a complete archive ends in blocks of zeros
        if not ended:
            reason = "the archive has no end mark: it is cut short between two files"
            shard.problems.append(Problem(-1, printable(str(path)), reason))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        shard.problems.append(Problem(-1, printable(str(path)), printable(f"the archive is damaged or cut short ({error})")))
    return shard


def _bytes(paths: list[Path], member: Member) -> bytes:
    with paths[member.shard].open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def load(paths: list[Path], name: str, classes: Classes) -> TarSource:
    """List the images of these shards, in the order of the paths and within them. Raises `DataError`."""
    stamps = tuple(Stamp.of(path) for path in paths)
    members: list[Member] = []
    words: list[str] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, int], Member] = {}  # a shard copied twice would count its images twice
    for number, path in enumerate(paths):
        if path.suffix != ".tar":
            raise DataError(f"{path} is compressed, so its images cannot be read one by one; unpack it to a .tar first")
        shard = _index(path, number)
        problems += shard.problems
        for key, member in shard.images.items():
            earlier = seen.setdefault((member.name, member.size), member)
            if earlier is not member and _bytes(paths, earlier) == _bytes(paths, member):
                problems.append(TWICE.at(f"{path}:{member.name}"))
            elif key in shard.words:
                members.append(member)
                words.append(shard.words[key])
            else:
                problems.append(NOT_LISTED.at(f"{path}:{member.name}"))
        problems += [LABEL_ALONE.at(f"{path}:{key.lstrip('/')}") for key in shard.words if key not in shard.images]
    numbering = classes.number_all(words, name)
    labels = np.array([numbering.label_of[word] for word in words], np.int64)
    notes = () if numbering.note is None else (numbering.note,)
    return TarSource(printable(name), stamps, tuple(members), labels, tuple(problems), notes)
