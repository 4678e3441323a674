"""`rmeeto-bench pull`: fetch a published checkpoint under the name that `--checkpoints DIR` looks for."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rmeeto_bench.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("source", metavar="WHERE", help="org/repo on the hub, or a folder that `push` wrote")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), metavar="DIR", help="default: checkpoints")
    parser.add_argument("--force", action="store_true", help="replace another file of that name in --out")


def main(arguments: argparse.Namespace) -> int:
    """Fetch, check and name it; prints the file."""
    from rmeeto_bench.checkpoints.publish import pull

    with tempfile.TemporaryDirectory() as scratch:
        output.say(pull(arguments.source, arguments.out, Path(scratch), force=arguments.force))
    return 0
