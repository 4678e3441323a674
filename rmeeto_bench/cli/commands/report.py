"""`rmeeto-bench report`: everything that can be drawn from a stored run, without measuring and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli.result import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font of the figure")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write here instead of into the run's folder")


def main(arguments: argparse.Namespace) -> int:
    """Write the files again and print the table."""
    from rmeeto_bench.bench.summary.raw import raw_of
    from rmeeto_bench.records.run import load
    from rmeeto_bench.report.run.files import write_all

    record = load(arguments.run)
    source = arguments.run if arguments.run.is_dir() else arguments.run.parent
    folder = arguments.out or source
    write_all(record, folder, arguments.style, raw_of(record, source))
    show(record, folder)
    return 0
