"""`rmeeto-bench report`: everything that can be drawn from a stored run, without measuring and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli.result import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its archive")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font of the figure")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write here (default: the run's folder, or beside its archive)")


def main(arguments: argparse.Namespace) -> int:
    """Write the files again and print the table."""
    from rmeeto_bench.bench.summary.raw import raw_of
    from rmeeto_bench.fleet.join.archive import drawn_at, run_at
    from rmeeto_bench.report.run.files import write_all

    with run_at(arguments.run) as (source, record):
        folder = arguments.out or drawn_at(arguments.run)
        write_all(record, folder, arguments.style, raw_of(record, source))
    show(record, folder)
    return 0
