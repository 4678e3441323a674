"""`rmeeto-bench ls [DIR]`: the runs in a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output

if TYPE_CHECKING:
    from rmeeto_bench.records.run import RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="also write a page of Markdown with all runs by device")


def _found(folder: Path) -> Iterator[tuple[Path, RunRecord | str]]:
    """The runs in a folder and one below it, packed ones too: where each is, and its record or why it cannot be read."""
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.fleet.join.archive import ENDINGS, run_at
    from rmeeto_bench.records.run import MANIFEST

    for path in sorted({found for end in (MANIFEST, *(f"*{end}" for end in ENDINGS)) for found in _within(folder, end)}):
        place = path.parent if path.name == MANIFEST else path
        try:
            with run_at(path) as (_, record):
                yield place, record
        except DataError as error:
            yield place, str(error)


def _within(folder: Path, pattern: str) -> Iterator[Path]:
    yield from folder.glob(pattern)
    yield from folder.glob(f"*/{pattern}")


def main(arguments: argparse.Namespace) -> int:
    """One line per run, the oldest first; then those that cannot be read, and why."""
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.files import write_atomic
    from rmeeto_bench.report.fitted import of_texts
    from rmeeto_bench.report.gallery import gallery

    if not arguments.folder.is_dir():
        raise DataError(f"{arguments.folder} is no folder; give one that holds runs")
    found = dict(_found(arguments.folder))
    records = {place: record for place, record in found.items() if not isinstance(record, str)}
    rows = [_row(place, record) for place, record in records.items()]
    console = output.console()
    rows.sort(key=lambda row: (row["when (UTC)"], row["folder"]))
    if rows:
        words = ("folder", "when (UTC)", "status", "devices", "models", "verdicts")
        first = ("arms", "when (UTC)", "devices", "models", "verdicts", "status")
        console.print(of_texts(None, rows, console.width, left=words, first=first))
    for place, why in found.items():
        if isinstance(why, str):
            console.print(f"{place} is unreadable: {why}", soft_wrap=True)
    if not found:
        console.print(f"no runs in {arguments.folder}")
    if arguments.gallery is not None:
        here = arguments.gallery.absolute().parent
        page = gallery({Path(os.path.relpath(place.absolute(), here)).as_posix(): record for place, record in records.items()})
        write_atomic(arguments.gallery, page)
    return 0


def _row(place: Path, record: RunRecord) -> dict[str, str]:
    models = dict.fromkeys(arm.model for arm in record.arms) or record.plan.get("models", ())
    when, _, hour = record.created_utc.removesuffix("Z").partition("T")
    return {
        "folder": str(place),
        "when (UTC)": f"{when}\n{hour}",
        "status": record.status,
        "devices": ", ".join(device.name for device in record.devices),
        "models": ", ".join(models),
        "arms": str(len(record.arms)),
        "verdicts": ", ".join(sorted({arm.verdict for arm in record.arms})),
    }
