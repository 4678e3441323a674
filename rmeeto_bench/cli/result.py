"""Showing a run: its tables and sentences on standard output, its files, its exit code. Shared by several commands."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.cli.interrupt import graceful

if TYPE_CHECKING:
    from rmeeto_bench.bench.run.controls import Controls
    from rmeeto_bench.records.run import RunRecord


def add_arms(parser: argparse._ActionsContainer) -> None:
    """`--arm`, for a stored run that has any: its code is imported only if whoever continues it says so."""
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME=MODULE:FUNCTION", help="allow the import of this arm of the run"
    )


def add_output(parser: argparse._ActionsContainer) -> None:
    """`--json`, as all commands have it that make a run."""
    parser.add_argument(
        "--json", metavar="FILE", help="also write the record of the run; - for standard output instead of the table"
    )


def show(record: RunRecord, folder: Path, *, whole: bool = False) -> None:
    """The headline, the tables and the notes on standard output. `whole`: the table of each device, however many there are."""

    from rmeeto_bench.report.run.summary import story
    from rmeeto_bench.report.run.tables import FOLDED, overview_table, rich_table, sweep_table

    console = output.console()  # names in a stored run are text
    told = story(record)
    for headline in told.headlines:
        console.print(headline)
    for table in overview_table(record, console.width):
        console.print(table)
    folded = len(record.devices) > FOLDED and not whole
    for device in record.devices:
        for table in () if folded else rich_table(record, device.id, console.width):
            console.print(table)
        for sweep in () if folded else sweep_table(record, device.id, console.width):
            console.print(sweep)
        for (known, _), conclusion in told.conclusions.items():
            if known == device.id:
                console.print(conclusion)
    for note in (*told.notes, *told.verdicts):
        console.print(f"  {note}")
    if folded:
        console.print(f"the table of each device: rmeeto-bench show {folder}", soft_wrap=True)
    console.print(f"files: {folder}", soft_wrap=True)


def deliver(record: RunRecord, folder: Path, json: str | None) -> None:
    """Write the files of a run, and show it or write its record as `--json` asks."""
    from rmeeto_bench.bench.summary.raw import raw_of
    from rmeeto_bench.records.run import to_json
    from rmeeto_bench.report.run.files import write_all

    write_all(record, folder, raw=raw_of(record, folder))
    if not output.write_json_text(to_json(record), json):
        show(record, folder)


def exit_code(record: RunRecord) -> int:
    """0 done, 5 nothing measured, 6 a device was lost, 130 interrupted."""
    if record.status == "interrupted":
        return 130
    if record.failures:
        return 6
    return 0 if any(arm.known for arm in record.arms) else 5


def carry_out(
    work: Callable[[Controls], RunRecord], folder: Path, json: str | None, workers: int | None, arms: Sequence[str] = ()
) -> int:
    """Do the work under a progress display and Ctrl-C, write the run's files and show them; returns the exit code.

    `workers`: processes that decode images, None for one per core. `arms`: whose code may be imported.
    """
    from rmeeto_bench.bench.run.controls import Controls
    from rmeeto_bench.cli.progress import RunProgress
    from rmeeto_bench.records.run import MANIFEST
    from rmeeto_bench.report.run.tables import markdown

    again = " ".join([f"rmeeto-bench resume {folder}", *(f"--arm {arm}" for arm in arms)])
    try:
        with graceful("finishing what is in hand; what is measured is kept") as should_stop, RunProgress() as tell:
            record = work(Controls(tell, should_stop, workers=workers, arms=tuple(arms)))
    except KeyboardInterrupt:
        if (folder / MANIFEST).is_file():
            output.say(f"stopped at once; continue with: {again}", error=True)
        raise
    deliver(record, folder, json)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(markdown(record) + "\n")
    for failure in record.failures:
        output.say(f"lost: {failure}", error=True)
    if record.status != "complete":
        output.say(f"continue with: {again}", error=True)
    return exit_code(record)
