"""Showing a run: its tables and sentences on standard output, and its exit code. Shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmeeto_bench.records import RunRecord


def show(record: RunRecord, folder: Path) -> None:
    """The tables and sentences on standard output. Names in a stored run are text, never markup."""
    from rich.console import Console

    from rmeeto_bench.report.summary import sentences
    from rmeeto_bench.report.tables import rich_table

    console = Console(highlight=False, markup=False)
    for device in record.devices:
        for table in rich_table(record, device.id, console.width):
            console.print(table)
    for sentence in sentences(record):
        console.print(sentence)
    console.print(f"files: {folder}", soft_wrap=True)
