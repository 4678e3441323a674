"""`rmeeto-bench contribute RUN`: a stored run as one checked file, to attach to an issue or a pull request."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output
from rmeeto_bench.errors import UsageError
from rmeeto_bench.fleet.join.contribution import contribute, names_in, opened
from rmeeto_bench.records.run import RunRecord, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run; with --check, packed runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the archive (default: its run id with .tar.gz, here)")
    parser.add_argument("--keep-names", action="store_true", help="keep the names of the host and of folders")
    parser.add_argument("--check", action="store_true", help="pack nothing; check archives that contribute wrote")


def _described(path: Path, record: RunRecord) -> str:
    devices = ", ".join(dict.fromkeys(device.name for device in record.devices))
    models = ", ".join(dict.fromkeys(arm.model for arm in record.arms))
    verdicts = ", ".join(sorted({arm.verdict for arm in record.arms}))
    named = "with names of its machine" if names_in(record) else "without names of its machine"
    return f"{path}: {devices}, {models}, {len(record.arms)} arms, {verdicts}, {named}"


def main(arguments: argparse.Namespace) -> int:
    """Pack or check; 2 for the first run that is not fit."""
    if arguments.check:
        if arguments.out is not None or arguments.keep_names:
            raise UsageError("--check packs nothing; leave out --out and --keep-names")
        for path in arguments.runs:
            with opened(path) as (_, record):
                output.say(f"{_described(path, record)}: good")
        return 0
    if len(arguments.runs) > 1:
        raise UsageError("contribute packs one run at a time; give one folder")
    folder = arguments.runs[0]
    out = arguments.out or Path(f"{load(folder).run_id}.tar.gz")
    record = contribute(folder, out, keep_names=arguments.keep_names)
    output.say(_described(out, record))
    output.say("attach it to an issue, or add it to results/contributed/ in a pull request")
    return 0
