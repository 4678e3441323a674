"""`rmeeto-bench figure RUN...`: one figure of stored runs, without measuring and without torch."""

from __future__ import annotations

import argparse
import json
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
    "kernels": "time of each kernel; RUN is a report of benchmarks/gpu_check.py",
}
ENDINGS = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "kinds:\n" + "\n".join(f"  {kind:15} {text}" for kind, text in KINDS.items())
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--kind", choices=tuple(KINDS), default="speed_accuracy", help="which figure (default: speed_accuracy)")
    parser.add_argument("--style", choices=("screen", "paper"), default="screen", help="size and font: paper fits a column")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="FILE.png, .pdf or .svg, or a folder for all three (default: the first run's)"
    )


def _draw(arguments: argparse.Namespace) -> Figure:
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.records.run import load
    from rmeeto_bench.report.figures import kinds

    if arguments.kind == "kernels":
        try:
            checks = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.runs]
        except (ValueError, IsADirectoryError) as error:
            raise DataError(f"--kind kernels needs the JSON that benchmarks/gpu_check.py wrote ({error})") from error
        return kinds.kernel_times(checks, arguments.style)
    records = [load(path) for path in arguments.runs]
    if arguments.kind == "energy":
        from rmeeto_bench.bench.summary.raw import raw_of
        from rmeeto_bench.report.run.energy import energy_of_run

        joules: dict[tuple[str, str, str], Estimate] = {}
        for path, record in zip(arguments.runs, records, strict=True):
            joules |= energy_of_run(record, raw_of(record, path if path.is_dir() else path.parent).blocks)
        return kinds.energy(records, arguments.style, joules)
    return kinds.KINDS[arguments.kind](records, arguments.style)


def main(arguments: argparse.Namespace) -> int:
    """Draw, write, and say where."""
    from rmeeto_bench.report.figures.style import render, write_figure

    figure = _draw(arguments)
    first = arguments.runs[0]
    out = arguments.out or (first if first.is_dir() else first.parent)
    if out.suffix in ENDINGS:
        write_atomic(out, render(figure, out.suffix[1:], arguments.style))
        paths = [out]
    else:
        paths = write_figure(figure, out / arguments.kind, arguments.style)
    for path in paths:
        output.say(path)
    return 0
