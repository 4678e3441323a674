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

    from rmeeto_bench.checkpoints.catalogue import PUBLIC
    from rmeeto_bench.checkpoints.hub import cached_public, known_sha256
    from rmeeto_bench.report.fitted import of_texts

    models = [
        {
            "model": name,
            "width": str(sized.embed_dim),
            "depth": str(sized.depth),
            "input": "x".join(str(side) for side in sized.input_shape),
            "tokens": str(sized.num_tokens),
            "weights": "bundled" if bundled_checkpoint(name, 0) else "--checkpoints",
        }
        for name, sized in MODELS.items()
    ]
    public = []
    rows = []
    for entry in PUBLIC:
        path = cached_public(entry)
        stored = path.stat().st_size if path is not None else entry.size
        digest = known_sha256(entry, path)
        rows.append({**asdict(entry), "size": stored, "sha256": digest, "on_this_machine": None if path is None else str(path)})
        megabytes = "" if stored is None else f"{stored / 1e6:.0f}"
        note = ", ".join(text for text in (entry.note, "EMA" if entry.ema else "", "here" if path else "") if text)
        licence = entry.licence or "not stated"
        shown = {"name": entry.name, "r": str(entry.r), "data": entry.task, "top-1 %": f"{entry.top1}", "MB": megabytes}
        public.append({**shown, "sha256": (digest or "")[:8], "licence": licence, "notes": note})
    text = json.dumps(rows, indent=1) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
        return 0
    if arguments.json:
        write_atomic(Path(arguments.json), text)
    console = output.console()
    console.print(of_texts("models", models, console.width, left=("model", "weights")))
    title = "public checkpoints (--checkpoints zoo takes the one of each r, else that of r = 0)"
    words = ("name", "data", "sha256", "licence", "notes")
    console.print(of_texts(title, public, console.width, left=words, first=("sha256", "licence", "MB", "notes")))
    for entry in PUBLIC:
        console.print(f"{entry.name}: {entry.address}", soft_wrap=True)
    return 0
