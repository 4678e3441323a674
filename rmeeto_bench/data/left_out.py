"""The members of a data set that were left out or passed over, counted by kind, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmeeto_bench.data.image_set import Problem
from rmeeto_bench.errors import printable

NAMED = 3  # members of a kind that the line names


@dataclass(frozen=True)
class Kind:
    """Why members of a data set are not used."""

    one: str  # the reason in the singular, as `Problem.reason` has it
    many: str  # the reason in the plural, for the count
    # Whether images of the set are lost: a run then stops, unless it may skip them. If not, there is only a note.
    costs: bool = True
    # Whether each is one image and counts among those left out. A folder or an archive holds an unknown number of images.
    image: bool = True

    def at(self, path: Path | str) -> Problem:
        """This problem, of a file or of a member in one."""
        return Problem(-1, printable(str(path)), self.one, self.costs)


DEAD_LINK = Kind("link leads nowhere", "links lead nowhere")
FOREIGN_FORMAT = Kind("image is of a format that is not read", "images are of formats that are not read")
NOT_LISTED = Kind("image has no label", "images have no label")
NOT_THERE = Kind("listed file is not there", "listed files are not there")
NO_CLASS = Kind("image lies in no class folder", "images lie in no class folder")
UNKNOWN_CLASS = Kind("image lies in a folder of no known class", "images lie in folders of no known class")
EMPTY_CLASS = Kind("class folder is empty", "class folders are empty", image=False)
NO_FOLDER = Kind("class has no folder", "classes have no folder", image=False)
UNOPENED = Kind("folder cannot be opened", "folders cannot be opened", image=False)
LABEL_ALONE = Kind("label has no image", "labels have no image")
LINKED = Kind("member is a link, not a file", "members are links, not files")
TOO_LARGE = Kind("member is too large for an image", "members are too large for an image")
SAME_KEY = Kind("image has the key of another", "images have the keys of others")
TWICE = Kind("image is in the set twice and counts once", "images are in the set twice and count once")
LISTED_TWICE = Kind("line names a file again, with the same label", "lines name a file again, with the same label", costs=False)
NOT_AN_IMAGE = Kind("other file is no image by its name", "other files are no images by their names", costs=False)
HIDDEN = Kind("hidden file or folder", "hidden files or folders", costs=False)
KINDS = {kind.one: kind for kind in list(globals().values()) if isinstance(kind, Kind)}


def _counted(problems: Sequence[Problem]) -> str:
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem.path)
    parts = []
    for reason, paths in by_reason.items():
        kind = KINDS.get(reason)
        words = f"1 {reason}" if len(paths) == 1 else f"{len(paths)} {kind.many}" if kind else f"{len(paths)}: {reason}"
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        parts.append(f"{words} ({', '.join(paths[:NAMED])}{more})")
    return ", ".join(parts)


def account(used: int, problems: Sequence[Problem]) -> str | None:
    """`59 of 60 used, 1 left out: 1 link leads nowhere (v/9/x.png)`, or None if there is nothing to say."""
    groups: dict[str, list[Problem]] = {"left out": [], "incomplete": [], "passed over": []}
    for problem in problems:
        kind = KINDS.get(problem.reason)
        lost = "left out" if kind is not None and kind.image else "incomplete"
        groups[lost if problem.skipped else "passed over"].append(problem)
    parts = [f"{name}: {_counted(found)}" for name, found in groups.items() if found]
    if groups["left out"]:
        count = len(groups["left out"])
        parts[0] = f"{used} of {used + count} used, {count} {parts[0]}"
    return "; ".join(parts) or None
