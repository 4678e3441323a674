"""`rmeeto-bench resume DIR`: continue a run that was cut short."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli.images import add_workers, workers
from rmeeto_bench.cli.result import add_arms, add_output, carry_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of the run; finished sessions are kept")
    add_workers(parser)
    add_arms(parser)
    add_output(parser)


def main(arguments: argparse.Namespace) -> int:
    """Measure what is missing, write the files again, show the result."""
    readers = workers(arguments)  # before anything that takes long to load

    from rmeeto_bench.bench.run.runner import resume

    return carry_out(lambda controls: resume(arguments.run, controls), arguments.run, arguments.json, readers, arguments.arm)
