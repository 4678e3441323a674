"""`rmeeto-bench rerun RUN`: measure a stored run again, by the plan in its manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rmeeto_bench.cli.images import add_workers, workers
from rmeeto_bench.cli.result import add_arms, add_output, carry_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run to repeat, or its manifest.json")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the new run (default: runs/ID)")
    add_workers(parser)
    add_arms(parser)
    add_output(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the stored plan in a new folder; the new record names the old run."""
    readers = workers(arguments)  # before anything that takes long to load

    from rmeeto_bench.bench.plan.plan import BenchPlan
    from rmeeto_bench.bench.run.runner import new_run_id, rerun
    from rmeeto_bench.records.run import load

    plan = BenchPlan.from_dict(load(arguments.run).plan)
    folder = arguments.out or Path("runs") / new_run_id(plan)
    argv = tuple(sys.argv[1:])
    return carry_out(
        lambda controls: rerun(arguments.run, folder, controls, argv=argv), folder, arguments.json, readers, arguments.arm
    )
