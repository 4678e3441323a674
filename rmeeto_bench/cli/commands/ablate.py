"""`rmeeto-bench ablate`: the paper's ablations on the models, data and checkpoints that are there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.cli import output
from rmeeto_bench.cli.interrupt import graceful
from rmeeto_bench.files import write_atomic
from rmeeto_bench.models.sizes import config

if TYPE_CHECKING:
    from rmeeto_bench.data.image_set import ImageSet

EVERY = 15.0  # seconds between two lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("name", nargs="*", metavar="NAME", help="metric, order, shuffle, ...; without any they are listed")
    parser.add_argument("--all", action="store_true", help="every ablation, in one pass over the images")
    parser.add_argument("--model", default="vim_nano", metavar="NAME", help="default: the bundled vim_nano")
    parser.add_argument("--r", type=int, default=11, metavar="N", help="tokens removed per merge (default: 11, ratio 0.31)")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights of every variant, a file or public name (default: what ships)"
    )
    parser.add_argument(
        "--retrained", action="store_true", help="take the weights that ship for --r, not the unmerged baseline's"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="images by class, or Fashion-MNIST files (default: bundled)")
    parser.add_argument("--images", type=int, metavar="N", help="evaluate on N images, in the class proportions of the whole")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of a variant that draws (default: 3)")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="default: 250")
    parser.add_argument("--backend", default="auto", metavar="B", help="kernels: auto (default), triton, native, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write MODEL.md, MODEL.csv and MODEL.json to this folder")


def _weights(arguments: argparse.Namespace) -> Path:
    from rmeeto_bench.checkpoints.hub import resolve
    from rmeeto_bench.errors import UsageError

    if arguments.checkpoint:
        if arguments.retrained:
            raise UsageError("--retrained uses the weights that ship, --checkpoint a file; give one of them")
        return resolve(arguments.checkpoint)
    r = arguments.r if arguments.retrained else 0
    path = bundled_checkpoint(arguments.model, r)
    if path is None:
        raise UsageError(f"no weights ship for {arguments.model} at r = {r}; give --checkpoint a file")
    return path


def _data(arguments: argparse.Namespace) -> ImageSet:
    from rmeeto_bench.data.find import find_data
    from rmeeto_bench.errors import UsageError

    sized = config(arguments.model)
    data = find_data(arguments.data, shape=sized.input_shape, num_classes=sized.num_classes, images=arguments.images)
    if data is None:
        raise UsageError(f"no images ship that {arguments.model} could classify; give --data")
    for note in data.notes:
        output.say(f"note: {note}", error=True)
    return data


def _list(r: int) -> int:
    from rmeeto_bench.ablate.studies import studies

    for study in studies(r).values():
        output.say(f"{study.name:13} {study.question} ({study.source}): {', '.join(v.label for v in study.variants)}")
    return 0


def main(arguments: argparse.Namespace) -> int:
    """Run, print, write; 130 if interrupted, with what the images so far say."""
    from dataclasses import asdict

    from rmeeto_bench.ablate.ablations import Settings, run_studies
    from rmeeto_bench.ablate.studies import choose_studies
    from rmeeto_bench.checkpoints.origin import origin_of
    from rmeeto_bench.checkpoints.reader import read_checkpoint
    from rmeeto_bench.report import ablation
    from rmeeto_bench.validate import at_least, flag

    if not arguments.name and not arguments.all:
        return _list(arguments.r)
    at_least(1, {flag(name): getattr(arguments, name) for name in ("r", "seeds", "batch_size", "images")})
    chosen = choose_studies(() if arguments.all else tuple(arguments.name), arguments.r)
    weights, data = _weights(arguments), _data(arguments)
    settings = Settings(arguments.model, weights, arguments.backend, arguments.batch_size, arguments.seeds)
    started = shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            left = (total - done) * (shown - started) / done / 60
            output.say(f"  {done} of {total} images, {left:.0f} min left", error=True)

    with graceful("leaving this batch; what was seen by every variant is kept") as should_stop:
        rows = [asdict(row) for row in run_studies(chosen, settings, data, progress, should_stop)]
        stopped = should_stop()
    regime = f"weights of {weights.name}"
    images = rows[0]["images"] if rows else 0
    heading = f"Ablations of {arguments.model} at r = {arguments.r}, {regime}, {images} images of {data.name}"
    text = ablation.markdown(rows, heading)
    output.say(text)
    if arguments.out is not None:
        record = {"model": arguments.model, "r": arguments.r, "weights": weights.name, "data": data.name, "images": images}
        origin = origin_of(read_checkpoint(weights).provenance)
        record |= {"weights_r": origin.r, "weights_known_by": origin.known_by}
        record |= {"seeds": arguments.seeds, "batch_size": arguments.batch_size}
        stem = arguments.out / arguments.model
        write_atomic(stem.with_suffix(".md"), text)
        write_atomic(stem.with_suffix(".csv"), ablation.comma_separated(rows))
        write_atomic(stem.with_suffix(".json"), ablation.to_json(rows, record))
    return 130 if stopped else 0
