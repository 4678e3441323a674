"""`rmeeto-bench ls [DIR]`: the runs in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")


def main(arguments: argparse.Namespace) -> int:
    """One line per run, the oldest first; a damaged one says so."""
    from rich.table import Table

    from rmeeto_bench.errors import DataError
    from rmeeto_bench.records.run import MANIFEST, load

    if not arguments.folder.is_dir():
        raise DataError(f"{arguments.folder} is no folder; give one that holds runs")
    table = Table("folder", "when (UTC)", "status", "devices", "models", "arms", "verdicts", box=None, pad_edge=False)
    found = sorted({path.parent for pattern in (MANIFEST, f"*/{MANIFEST}") for path in arguments.folder.glob(pattern)})
    rows = []
    for folder in found:
        try:
            record = load(folder)
        except DataError as error:
            rows.append(("", (str(folder), "", "unreadable", str(error), "", "", "")))
            continue
        models = ", ".join(dict.fromkeys(arm.model for arm in record.arms)) or ", ".join(record.plan.get("models", ()))
        verdicts = ", ".join(sorted({arm.verdict for arm in record.arms}))
        names = ", ".join(device.name for device in record.devices)
        when = record.created_utc.replace("T", " ").removesuffix("Z")
        rows.append((record.created_utc, (str(folder), when, record.status, names, models, str(len(record.arms)), verdicts)))
    for _, row in sorted(rows):
        table.add_row(*row)
    output.console().print(table if rows else f"no runs in {arguments.folder}")
    return 0
