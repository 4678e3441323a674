"""`rmeeto-bench merge`: one table from the runs of several machines, whether or not they ever met."""

from __future__ import annotations

import argparse
from pathlib import Path

from rmeeto_bench.cli import output
from rmeeto_bench.files import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, their manifests, or .tar.gz of them"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the merged run")
    parser.add_argument("--prefer", metavar="RUN_ID", help="where runs contradict each other, take this one's results")
    parser.add_argument("--json", metavar="FILE", help="also write the record; - for standard output instead of the table")


def main(arguments: argparse.Namespace) -> int:
    """Merge, write the files, show the tables; 5 if no arm of any run was measured."""
    from rmeeto_bench.bench.summary.raw import raw_of
    from rmeeto_bench.fleet.join.gather import gather
    from rmeeto_bench.records.run import to_json
    from rmeeto_bench.report.run.files import write_all

    merged, notes = gather(arguments.runs, arguments.out, prefer=arguments.prefer)
    for note in notes:
        output.say(f"note: {note}", error=True)
    write_all(merged.record, arguments.out, raw=raw_of(merged.record, arguments.out))
    if arguments.json == "-":
        output.write_json_text(to_json(merged.record), "-")
    else:
        if arguments.json:
            write_atomic(Path(arguments.json), to_json(merged.record))
        from rmeeto_bench.cli.result import show

        show(merged.record, arguments.out)
    return 0 if any(arm.known for arm in merged.record.arms) else 5
