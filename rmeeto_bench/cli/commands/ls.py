"""`rmeeto-bench ls [DIR]`: the runs in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")


def main(arguments: argparse.Namespace) -> int:
    """One line per run, the oldest first; then those that cannot be read, and why."""
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.records.run import MANIFEST, load
    from rmeeto_bench.report.fitted import of_texts

    if not arguments.folder.is_dir():
        raise DataError(f"{arguments.folder} is no folder; give one that holds runs")
    found = sorted({path.parent for pattern in (MANIFEST, f"*/{MANIFEST}") for path in arguments.folder.glob(pattern)})
    rows, unreadable = [], []
    for folder in found:
        try:
            record = load(folder)
        except DataError as error:
            unreadable.append(f"{folder} is unreadable: {error}")
            continue
        names = [device.name for device in record.devices]
        models = dict.fromkeys(arm.model for arm in record.arms) or record.plan.get("models", ())
        when, _, hour = record.created_utc.removesuffix("Z").partition("T")
        rows.append(
            {
                "folder": str(folder),
                "when (UTC)": f"{when}\n{hour}",
                "status": record.status,
                "devices": ", ".join(names),
                "models": ", ".join(models),
                "arms": str(len(record.arms)),
                "verdicts": ", ".join(sorted({arm.verdict for arm in record.arms})),
            }
        )
    console = output.console()
    rows.sort(key=lambda row: (row["when (UTC)"], row["folder"]))
    if rows:
        words = ("folder", "when (UTC)", "status", "devices", "models", "verdicts")
        first = ("arms", "when (UTC)", "devices", "models", "verdicts", "status")
        console.print(of_texts(None, rows, console.width, left=words, first=first))
    for line in unreadable:
        console.print(line, soft_wrap=True)
    if not found:
        console.print(f"no runs in {arguments.folder}")
    return 0
