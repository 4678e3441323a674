"""`rmeeto-bench merge`: one table from the runs of several machines, whether or not they ever met."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output
from rmeeto_bench.cli.result import add_output, deliver


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, their manifests, or .tar.gz of them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the merged run")
    parser.add_argument("--prefer", metavar="RUN_ID", help="where runs contradict each other, take this one's results")
    add_output(parser)


def main(arguments: argparse.Namespace) -> int:
    """Merge, write the files, show the tables; 5 if no arm of any run was measured."""
    from rmeeto_bench.fleet.join.gather import gather

    merged, notes = gather(arguments.runs, arguments.out, prefer=arguments.prefer)
    for note in notes:
        output.say(f"note: {note}", error=True)
    deliver(merged.record, arguments.out, arguments.json)
    return 0 if any(arm.known for arm in merged.record.arms) else 5
