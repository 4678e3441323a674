"""Showing a comparison: on the terminal, in a CI job's summary and annotations, and in the files asked for. No torch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.files import write_atomic

if TYPE_CHECKING:
    from rmeeto_bench.records.comparison import Comparison


def add_output(parser: argparse._ActionsContainer) -> None:
    """`--json` and `--junit`."""
    parser.add_argument("--json", metavar="FILE", help="write every number; - for standard output instead of the table")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML, a test case per quantity of an arm")


def show(comparison: Comparison, arguments: argparse.Namespace) -> int:
    """Print and write a comparison; returns its exit code."""

    from rmeeto_bench.records.comparison import to_json
    from rmeeto_bench.report.comparison import github_annotations, headline, junit, markdown, table

    if not output.write_json_text(to_json(comparison), arguments.json):
        console = output.console()
        console.print(table(comparison, console.width))
        for note in comparison.notes:
            console.print(f"note: {note}", soft_wrap=True)
        console.print(headline(comparison), soft_wrap=True)
    if arguments.junit:
        write_atomic(arguments.junit, junit(comparison))
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(markdown(comparison) + "\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(comparison):
            output.say(line, error=True)  # the runner reads both streams; standard output may be JSON
    return comparison.exit_code
