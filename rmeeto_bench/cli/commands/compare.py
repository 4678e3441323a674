"""`rmeeto-bench compare A B`: two stored runs, arm by arm, without measuring and without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import comparing
from rmeeto_bench.cli.quantities import percent, points

EPILOGUE = """FASTER, SLOWER: chance does not explain the change, with Holm's correction over everything that is judged.
SAME: the 95 % interval lies within the margin. INCONCLUSIVE: neither, or fewer than three sessions a side.
exit codes: 0 nothing is slower or less accurate, 3 something is, 4 inconclusive, 5 refused (simulated or invalid data)
Runs of different days differ by driver, heat and clocks too: to judge a change of the program use `rmeeto-bench gate`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOGUE
    parser.add_argument("base", type=Path, metavar="A", help="the run to compare with, its folder or archive")
    parser.add_argument("head", type=Path, metavar="B", help="the run that is judged")
    parser.add_argument(
        "--margin", type=percent, default=0.01, metavar="P%", help="speeds within this are the same (default: 1%%)"
    )
    parser.add_argument("--top1-margin", type=points, default=0.5, metavar="POINTS", help="the same for top-1 (default: 0.5)")
    parser.add_argument("--explain", action="store_true", help="show simulated and invalid arms too, marked and not judged")
    comparing.add_output(parser)


def main(arguments: argparse.Namespace) -> int:
    """Compare and show."""
    from rmeeto_bench.compare.stored_runs import StoredRun, Tolerances, compare
    from rmeeto_bench.fleet.join.archive import run_at

    limits = Tolerances(arguments.margin, arguments.top1_margin)
    with run_at(arguments.base) as base, run_at(arguments.head) as head:
        compared = compare(StoredRun(*base), StoredRun(*head), limits, explain=arguments.explain)
    return comparing.show(compared, arguments)
