"""`rmeeto-bench figure RUN...`: one figure of stored runs, without measuring and without torch."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmeeto_bench.records.run import Estimate

KINDS = {
    "speed_accuracy": "images/s against top-1, a line per device; without accuracy as speedup",
    "speedup": "speed-up over the ratio, with the token bound",
    "retraining": "accuracy before and after re-training",
    "energy": "joules per image over the ratio",
    "tokens": "images/s, speed-up and GPU memory over the tokens of an image, of one or several runs",
    "kernels": "time of each kernel; RUN is a report of benchmarks/gpu_check.py",
}
ENDINGS = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "kinds:\n" + "\n".join(f"  {kind:15} {text}" for kind, text in KINDS.items())
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders or archives of runs")
    parser.add_argument("--kind", choices=tuple(KINDS), default="speed_accuracy", help="which figure (default: speed_accuracy)")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font: paper fits a column")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="FILE.png, .pdf or .svg, or a folder for all three (default: the first run's)"
    )


def _draw(arguments: argparse.Namespace) -> Figure:
    from rmeeto_bench.bench.summary.raw import raw_of
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.fleet.join.archive import run_at
    from rmeeto_bench.report.figures import kinds
    from rmeeto_bench.report.figures.tokens import tokens
    from rmeeto_bench.report.run.energy import energy_of_run
    from rmeeto_bench.report.run.over_own import speedups_over_own

    if arguments.kind == "kernels":
        try:
            checks = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.runs]
        except (ValueError, IsADirectoryError) as error:
            raise DataError(f"--kind kernels needs the JSON that benchmarks/gpu_check.py wrote ({error})") from error
        return kinds.kernel_times(checks, arguments.style)
    with ExitStack() as opened:
        runs = [opened.enter_context(run_at(path)) for path in arguments.runs]
        records = [record for _, record in runs]
        if arguments.kind in kinds.KINDS:
            return kinds.KINDS[arguments.kind](records, arguments.style)
        of_run, draw = {"energy": (energy_of_run, kinds.energy), "tokens": (speedups_over_own, tokens)}[arguments.kind]
        found: dict[tuple[str, str, str], Estimate] = {}
        for folder, record in runs:
            found |= of_run(record, raw_of(record, folder).blocks)
        return draw(records, arguments.style, found)


def main(arguments: argparse.Namespace) -> int:
    """Draw, write, and say where."""
    from rmeeto_bench.fleet.join.archive import drawn_at
    from rmeeto_bench.report.figures.style import render, write_figure

    figure = _draw(arguments)
    out = arguments.out or drawn_at(arguments.runs[0])
    if out.suffix in ENDINGS:
        write_atomic(out, render(figure, out.suffix[1:], arguments.style))
        paths = [out]
    else:
        paths = write_figure(figure, out / arguments.kind, arguments.style)
    for path in paths:
        output.say(path)
    return 0
