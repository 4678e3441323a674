"""`rmeeto-bench visualize`: which tokens of a picture or clip were merged, drawn over it."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.cli import output
from rmeeto_bench.cli.images import at_typed_sizes
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import config, without_size

if TYPE_CHECKING:
    from PIL import Image

    from rmeeto_bench.models.base import ReducedModel
    from rmeeto_bench.report.figures.pictures import Panel, Pixels

SIDE = 448  # pixels of a drawn picture
SHOWN = 4  # stages at most in a row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "image", nargs="+", metavar="IMAGE", help="image files, animated images, folders of frames, or skimage:astronaut"
    )
    parser.add_argument("--model", default="vim_nano", metavar="NAME", help="default: the bundled vim_nano, on gray copies")
    parser.add_argument("--img-size", metavar="N", help="pixels of the image that the model sees (default: the model's own)")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--r", type=int, metavar="N", help="tokens removed per merge (default: 11, or 88 for a model of clips)")
    amount.add_argument("--ratio", type=float, metavar="X", help="reduction ratio instead")
    parser.add_argument("--checkpoint", metavar="FILE", help="a file or public name (default: what ships, else random weights)")
    parser.add_argument("--prune", action="store_true", help="drop the tokens instead of merging them")
    parser.add_argument("--stages", action="store_true", help=f"also show up to {SHOWN - 1} earlier merges")
    parser.add_argument("--format", choices=("png", "jpg", "pdf"), default="png", help="of the contact sheet (default: png)")
    parser.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR", help="folder (default: pictures)")


def _model(arguments: argparse.Namespace) -> tuple[ReducedModel, str, str]:
    """The model, its name, and what to call its weights."""
    import torch

    from rmeeto_bench.models.zoo import create_model
    from rmeeto_bench.reduction.config import ReductionConfig

    name, *others = at_typed_sizes(arguments.model, arguments.img_size)
    if others:
        raise UsageError("visualize draws one model at one image size")
    sized, base = config(name), without_size(name)[0]
    default = 88 if len(sized.input_shape) == 4 else 11
    r = default if arguments.r is None else arguments.r
    if arguments.ratio is not None:
        r = sized.r_for_ratio(arguments.ratio)[0]
    checkpoint, weights = arguments.checkpoint, "random weights"
    if checkpoint is None:
        checkpoint = bundled_checkpoint(base, r) or bundled_checkpoint(base, 0)
    if checkpoint is not None:
        weights = Path(checkpoint).name
    torch.manual_seed(0)
    if arguments.prune:
        how: dict[str, Any] = {"reduction": ReductionConfig(r=r, prune=True)}
    else:  # without an amount it is the checkpoint's, where that says so
        how = {} if arguments.checkpoint and arguments.r is None and arguments.ratio is None else {"r": r}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        model = create_model(name, checkpoint=checkpoint, **how)
    for warning in told:
        output.say(f"note: {warning.message}", error=True)
    if not how and model.reduction.r == 0:
        model.set_reduction(ReductionConfig(r=r))
    return model, name, weights


def _panels(name: str, frames: list[Image.Image], model: ReducedModel, *, stages: bool) -> list[list[Panel]]:
    """Rows of a sheet for one picture or clip: the original, then what the merges made of it."""
    import numpy as np
    import torch

    from rmeeto_bench.data.preprocessing import preprocessing_for
    from rmeeto_bench.models.token_sources import trace
    from rmeeto_bench.report.figures.pictures import Panel, group_map, merged_pictures

    shape, sized = model.config.input_shape, model.config
    prepared = preprocessing_for(shape)
    shown = replace(prepared, size=SIDE, short=prepared.short * SIDE // prepared.size, channels=3)
    images = prepared.normalisation(torch.stack([prepared(frame) for frame in frames]))  # [T, C, S, S]
    clip = len(shape) == 4
    found = trace(model, images.transpose(0, 1)[None] if clip else images)
    originals = [shown(frame).permute(1, 2, 0).numpy() for frame in frames]
    drawn: list[tuple[str, list[Pixels]]] = [(name, originals)]
    chosen = np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(int) if stages else [-1]
    for stage in [found[i] for i in dict.fromkeys(chosen)] if found else []:
        groups = group_map(stage.source, sized.cls_position, getattr(sized, "steps", 1))
        drawn.append((f"block {stage.block}: {stage.tokens} tokens", merged_pictures(originals, groups)))
    if clip:
        captions = [[caption, *(f"frame {i}" for i in range(1, len(row)))] for caption, row in drawn]
        return [[Panel(*pair) for pair in zip(row, own, strict=True)] for own, (_, row) in zip(captions, drawn, strict=True)]
    return [[Panel(row[0], caption) for caption, row in drawn]]


def _fit(name: str, frames: list[Image.Image], count: int) -> list[Image.Image]:
    """As many frames as the model takes, evenly spread; the first of an animation for an image model.

    Raises `DataError` for a clip that is too short.
    """
    from rmeeto_bench.errors import DataError

    if len(frames) < count:
        raise DataError(f"{name} has {len(frames)} frames, the model takes {count}; give a longer clip or a folder of frames")
    return [frames[i * (len(frames) - 1) // max(1, count - 1)] for i in range(count)]


def main(arguments: argparse.Namespace) -> int:
    """Draw every picture beside its original, and all of them on one sheet."""
    from rmeeto_bench.data.pictures import open_picture
    from rmeeto_bench.report.figures.pictures import beside, contact_sheet, save_picture

    model, called, weights = _model(arguments)
    count = getattr(model.config, "frames", 0) or 1
    rows: list[list[Panel]] = []
    for word in arguments.image:
        name, frames = open_picture(word)
        own = _panels(name, _fit(name, frames, count), model, stages=arguments.stages)
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{name}_r{model.reduction.r}.png"
        save_picture(beside([panel.pixels for row in own for panel in row]), path)
        output.say(path)
        rows += own
    way = "pruned" if model.reduction.prune else "merged"
    title = f"{called}, r = {model.reduction.r} (ratio {model.reduction_ratio:.2f}), {way}, {weights}"
    sheet = arguments.out / f"contact_sheet.{arguments.format}"
    contact_sheet(rows, sheet, title)
    output.say(sheet)
    return 0
