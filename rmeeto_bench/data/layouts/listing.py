"""List the files under a folder, and name everything among them that is not a readable image."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.data.left_out import DEAD_LINK, FOREIGN_FORMAT, HIDDEN, NOT_AN_IMAGE, UNOPENED

OTHER_IMAGES = (".gif", ".tif", ".tiff", ".jp2", ".heic", ".avif", ".jfif", ".ppm", ".pgm", ".exr", ".jxl")


@dataclass
class Listing:
    """What lies under a folder."""

    # path below the root -> size in bytes and time of change in ns
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    folders: list[tuple[Path, int]] = field(default_factory=list)  # those that were walked, with their times of change in ns
    problems: list[Problem] = field(default_factory=list)  # entries that are not readable images

    def add(self, root: Path, below: str, endings: tuple[str, ...], *, deep: bool = True) -> int:
        """List the files of these endings in `root / below`, and in its folders; returns how many. A folder that links
        lead to twice is walked once."""
        before, seen = len(self.files), set()
        todo = [below]
        while todo:
            place = todo.pop()
            folder = root / place
            try:
                state = folder.stat()
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self.problems.append(UNOPENED.at(folder))
                continue
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            self.folders.append((folder, state.st_mtime_ns))
            for entry in entries:
                name = f"{place}/{entry.name}" if place else entry.name
                if entry.name.startswith("."):
                    self.problems.append(HIDDEN.at(root / name))
                elif entry.is_dir():
                    todo += [name] if deep else []
                else:
                    self._file(root, name, endings)
        return len(self.files) - before

    def _file(self, root: Path, name: str, endings: tuple[str, ...]) -> None:
        path = root / name
        try:
            state = path.stat()
        except OSError:
            self.problems.append(DEAD_LINK.at(path))
            return
        if not stat.S_ISREG(state.st_mode):
            self.problems.append(NOT_AN_IMAGE.at(path))
        elif name.lower().endswith(endings):
            self.files[name] = (state.st_size, state.st_mtime_ns)
        else:
            self.problems.append((FOREIGN_FORMAT if name.lower().endswith(OTHER_IMAGES) else NOT_AN_IMAGE).at(path))
