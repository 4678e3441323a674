"""`rmeeto-bench show RUN`: a stored run on the terminal, down to its rounds if asked for. Nothing is written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.cli.result import show

if TYPE_CHECKING:
    from rmeeto_bench.records.run import RunRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its archive")
    parser.add_argument("--rounds", action="store_true", help="every round: seconds per block, order, and why it was dropped")
    parser.add_argument("--plan", action="store_true", help="the plan, the environment and the devices as stored")


def _provenance(record: RunRecord) -> str:
    parts = {
        "run": record.run_id,
        "status": record.status,
        "command": "rmeeto-bench " + " ".join(record.argv),
        "repeats": record.parent_run,
        "resumed": ", ".join(record.resumed_utc),
        "version": record.tool_version,
        "commit": record.environment.get("git_commit"),
    }
    return "\n".join(f"{name}: {value}" for name, value in parts.items() if value)


def main(arguments: argparse.Namespace) -> int:
    """Print the run."""
    from rmeeto_bench.fleet.join.archive import run_at
    from rmeeto_bench.records.run import MANIFEST

    with run_at(arguments.run) as (folder, record):
        show(record, arguments.run.parent if arguments.run.name == MANIFEST else arguments.run, whole=True)
        _details(record, folder, arguments)
    return 0


def _details(record: RunRecord, folder: Path, arguments: argparse.Namespace) -> None:
    """Where the run comes from, and what of it is asked for."""
    console = output.console()
    console.print(_provenance(record), soft_wrap=True)
    if arguments.plan:
        details = {"plan": record.plan, "environment": record.environment}
        details["devices"] = {device.id: {"name": device.name, **device.details} for device in record.devices}
        console.print(json.dumps(details, indent=1, ensure_ascii=False), soft_wrap=True)
    if arguments.rounds:
        from rmeeto_bench.bench.store.untrusted import open_stored
        from rmeeto_bench.report.fitted import of_texts
        from rmeeto_bench.report.run.rounds import round_rows

        with open_stored(folder) as store:
            for device in record.devices:
                for rows in round_rows(store.blocks(device.id)):
                    console.print(f"{device.name}: ms per image (place)", style="italic", soft_wrap=True)
                    console.print(of_texts(None, rows, console.width, left=("dropped",)))
