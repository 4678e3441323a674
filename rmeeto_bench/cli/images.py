"""The flags that say which images a model is evaluated on, the same for `run` and `eval`."""

from __future__ import annotations

from argparse import _ArgumentGroup
from pathlib import Path


def add_data(group: _ArgumentGroup) -> None:
    """`--data` and what goes with it."""
    group.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="class folders, a flat folder, .parquet or .tar shards, Fashion-MNIST files (default: what is bundled)",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="of a flat folder: devkit ground truth, synsets, or a list")
    group.add_argument("--class-map", type=Path, metavar="FILE", help="class names in class order, where they are not synsets")
    group.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at an unreadable image: stop (default), or count it and go on",
    )
