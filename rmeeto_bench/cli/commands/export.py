"""`rmeeto-bench export RUN --to FORMAT`: a stored run for other tools, without torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rmeeto_bench.cli import output
from rmeeto_bench.files import write_atomic

FORMATS = ("gab", "bmf", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its archive")
    parser.add_argument(
        "--to",
        required=True,
        choices=FORMATS,
        help="gab: github-action-benchmark (customBiggerIsBetter); bmf: Bencher; csv: a row per arm; json: the record",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write here instead of to standard output")


def main(arguments: argparse.Namespace) -> int:
    """Write the run. Raises `MeasurementError` for one that measured nothing, or that was simulated and goes into a history."""
    from rmeeto_bench.errors import MeasurementError
    from rmeeto_bench.fleet.join.archive import run_at
    from rmeeto_bench.records.run import require_measured
    from rmeeto_bench.report.run.export import FORMATS as WRITERS

    with run_at(arguments.run) as (_, record):
        text = WRITERS[arguments.to](record)
    if arguments.to in ("gab", "bmf"):
        require_measured(record)
        if not any(arm.known for arm in record.arms):
            raise MeasurementError(f"run {record.run_id} measured nothing; a history needs numbers")
    if arguments.out:
        write_atomic(arguments.out, text)
    elif arguments.to == "csv":
        sys.stdout.write(text)
    else:
        output.write_json_text(text, "-")
    return 0
