"""The flags that say which images a model is evaluated on and how they are read, the same for `run` and `eval`."""

from __future__ import annotations

from argparse import Namespace, _ActionsContainer, _ArgumentGroup
from pathlib import Path


def add_data(group: _ArgumentGroup) -> None:
    """`--data` and what goes with it."""
    group.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="class folders, a flat folder, .parquet or .tar shards, Fashion-MNIST files (default: what is bundled)",
    )
    group.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels of a flat folder: devkit ground truth, synsets, or a list"
    )
    group.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help="file of class names in the order of the classes, where they are not synsets",
    )
    group.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="stop at an unreadable image (default), or count it and continue",
    )


def add_img_size(group: _ActionsContainer) -> None:
    """`--img-size`, for every command that takes models by name."""
    group.add_argument("--img-size", metavar="LIST", help="take every model at these image sizes in pixels, as in 224,384")


def at_typed_sizes(models: str, img_size: str | None) -> tuple[str, ...]:
    """The models as typed, with commas, at each of the image sizes as typed. Raises `UsageError`."""
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.models.sizes import at_sizes

    names = tuple(models.split(","))
    if img_size is None:
        return names
    words = img_size.split(",")
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"--img-size takes whole numbers of pixels, as in 224,384, not {img_size!r}")
    return at_sizes(names, [int(word) for word in words])


def add_workers(group: _ActionsContainer) -> None:
    """`--workers`, for every command that passes images through models."""
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images; 0 decodes without them (default: one per core; 0 where processes share a CPU)",
    )


def workers(arguments: Namespace) -> int | None:
    """How many processes decode; None is one per core. Raises `UsageError` for fewer than none."""
    from rmeeto_bench.errors import UsageError

    count: int | None = arguments.workers
    if count is not None and count < 0:
        raise UsageError(f"--workers must be 0 (decode in the process that evaluates) or more, not {count}")
    return count
