"""`rmeeto-bench models`: what can be measured, and the public checkpoints."""

from __future__ import annotations

import argparse


def add_arguments(_: argparse.ArgumentParser) -> None:
    """No flags."""


def main(_: argparse.Namespace) -> int:
    """Print the models and the checkpoints."""
    from rich.console import Console
    from rich.table import Table

    from rmeeto_bench.checkpoints.catalogue import PUBLIC
    from rmeeto_bench.models.zoo import MODELS, bundled_checkpoint

    models = Table("model", "width", "depth", "input", "tokens", "weights", box=None, title="models", title_justify="left")
    for name, sized in MODELS.items():
        weights = "bundled" if bundled_checkpoint(name, 0) else "--checkpoints"
        size = "x".join(str(side) for side in sized.input_shape)
        models.add_row(name, str(sized.embed_dim), str(sized.depth), size, str(sized.num_tokens), weights)
    public = Table("name", "file on the hub", "top-1 %", "", box=None, title="public checkpoints", title_justify="left")
    for entry in PUBLIC:
        public.add_row(entry.name, f"{entry.repo}:{entry.filename}", f"{entry.top1}", entry.note)
    console = Console(highlight=False)
    console.print(models)
    console.print(public)
    return 0
