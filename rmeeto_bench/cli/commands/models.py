"""`rmeeto-bench models`: what can be measured, and the public checkpoints."""

from __future__ import annotations

import argparse

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.cli import output
from rmeeto_bench.files import write_atomic
from rmeeto_bench.models.sizes import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--json", metavar="FILE", help="also write the list of checkpoints; - for standard output alone")


def main(arguments: argparse.Namespace) -> int:
    """Print the models and the checkpoints, with what is known of each file on this machine."""
    import json
    import sys
    from dataclasses import asdict
    from pathlib import Path

    from rich.table import Table

    from rmeeto_bench.checkpoints.catalogue import PUBLIC
    from rmeeto_bench.checkpoints.hub import cached_public, known_sha256

    models = Table("model", "width", "depth", "input", "tokens", "weights", box=None, title="models", title_justify="left")
    for name, sized in MODELS.items():
        weights = "bundled" if bundled_checkpoint(name, 0) else "--checkpoints"
        size = "x".join(str(side) for side in sized.input_shape)
        models.add_row(name, str(sized.embed_dim), str(sized.depth), size, str(sized.num_tokens), weights)
    public = Table("name", "r", "data", "top-1 %", "MB", "sha256", "licence", "", box=None, title_justify="left")
    public.title = "public checkpoints (--checkpoints zoo takes the one of each r, else that of r = 0)"
    rows = []
    for entry in PUBLIC:
        path = cached_public(entry)
        stored = path.stat().st_size if path is not None else entry.size
        digest = known_sha256(entry, path)
        rows.append({**asdict(entry), "size": stored, "sha256": digest, "on_this_machine": None if path is None else str(path)})
        megabytes = "" if stored is None else f"{stored / 1e6:.0f}"
        note = ", ".join(text for text in (entry.note, "EMA" if entry.ema else "", "here" if path else "") if text)
        licence = entry.licence or "not stated"
        public.add_row(entry.name, str(entry.r), entry.task, f"{entry.top1}", megabytes, (digest or "")[:8], licence, note)
    text = json.dumps(rows, indent=1) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
        return 0
    if arguments.json:
        write_atomic(Path(arguments.json), text)
    console = output.console()
    console.print(models)
    console.print(public)
    for entry in PUBLIC:
        console.print(f"{entry.name}: {entry.address}", soft_wrap=True)
    return 0
