"""Images in tar shards as webdataset writes them: `KEY.jpg` beside `KEY.cls`; read in place, nothing is unpacked."""

from __future__ import annotations

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
from rmeeto_bench.data.preprocessing import ENDINGS
from rmeeto_bench.data.source import Stamp
from rmeeto_bench.errors import DataError

MOST_BYTES = 2**28  # of one member; no encoded image comes near
BLOCK = 512
LABEL_ENDINGS = (".cls", ".json")


@dataclass(frozen=True)
class Member:
    """One image in a shard: its name there and where its bytes lie."""

    shard: int
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSource:
    """A `Source` over uncompressed tar files."""

    name: str
    shards: tuple[Stamp, ...]
    members: tuple[Member, ...]
    labels: NDArray[np.int64]
    problems: tuple[Problem, ...] = ()
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False, compare=False)

    def locate(self, index: int) -> str:
        """Shard and member."""
        member = self.members[index]
        return f"{self.shards[member.shard].path}:{member.name}"

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
        """A shard that is not the one listed."""
        return next((reason for stamp in self.shards if (reason := stamp.changed()) is not None), None)

    def __getstate__(self) -> dict[str, object]:
        """Without open files: each worker process opens its own."""
        return {**self.__dict__, "_open": {}}


def _label(ending: str, data: bytes) -> int | None:
    """The class in a `.cls` or `.json` member, or None."""
    try:
        if ending == ".cls":
            return int(data.decode("ascii"))
        value = json.loads(data)
        return int(value.get("label", value.get("cls")))
    except (ValueError, TypeError, AttributeError):
        return None


def _members(archive: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """The archive's regular files that lie wholly in it; a header cut off raises `tarfile.ReadError`."""
    for info in archive:
        if info.offset_data + info.size > size:
            raise tarfile.ReadError(f"{info.name} is cut off")
        if info.isreg():
            yield info


def _index(path: Path, number: int) -> tuple[dict[str, Member], dict[str, int], list[Problem]]:
    """(key -> image, key -> label, problems) of one shard."""
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    problems: list[Problem] = []
    size = path.stat().st_size
    if size == 0:
        return images, labels, [Problem(-1, str(path), "the file is empty")]
    try:
        with tarfile.open(path, "r:") as archive:
            for info in _members(archive, size):
                folder, _, base = info.name.rpartition("/")
                stem, _, extension = base.partition(".")
                key, ending = f"{folder}/{stem}", f".{extension.lower()}"
                if info.size > MOST_BYTES:
                    problems.append(Problem(-1, f"{path}:{info.name}", f"{info.size} bytes are no image"))
                elif ending in ENDINGS and key in images:
                    problems.append(Problem(-1, f"{path}:{info.name}", "a second image of the same key"))
                elif ending in ENDINGS:
                    images[key] = Member(number, info.name, info.offset_data, info.size)
                elif ending in LABEL_ENDINGS and key not in labels:
                    file = archive.extractfile(info)
                    label = None if file is None else _label(ending, file.read())
                    if label is not None:
                        labels[key] = label
            ended = archive.offset + BLOCK <= size  # a complete archive ends in blocks of zeros
        if not ended:
            problems.append(Problem(-1, str(path), "the archive has no end mark: it is cut short between two files"))
    except (tarfile.TarError, OSError, EOFError) as error:
        problems.append(Problem(-1, str(path), f"the archive is damaged or cut short ({error})"))
    return images, labels, problems


def _bytes(paths: list[Path], member: Member) -> bytes:
    with paths[member.shard].open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def load(paths: list[Path], name: str) -> TarSource:
    """List the images of these shards, in the order of the paths and within them. Raises `DataError`."""
    stamps = tuple(Stamp.of(path) for path in paths)
    members: list[Member] = []
    labels: list[int] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, int], Member] = {}  # a shard copied twice would count its images twice
    for number, path in enumerate(paths):
        if path.suffix != ".tar":
            raise DataError(f"{path} is compressed: images in it cannot be read one by one; unpack it to a .tar first")
        images, found, wrong = _index(path, number)
        problems += wrong
        for key, member in images.items():
            earlier = seen.setdefault((member.name, member.size), member)
            if earlier is not member and _bytes(paths, earlier) == _bytes(paths, member):
                reason = f"it is in {paths[earlier.shard].name} already and counts once"
                problems.append(Problem(-1, f"{path}:{member.name}", reason))
            elif key in found:
                members.append(member)
                labels.append(found[key])
            else:
                problems.append(Problem(-1, f"{path}:{member.name}", "it has no label (.cls or .json with the same key)"))
    return TarSource(name, stamps, tuple(members), np.array(labels, np.int64), tuple(problems))
