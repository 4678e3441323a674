"""`rmeeto-bench verify FILE`: is a checkpoint whole, safe, and of the model it is meant for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.models.sizes import MODELS, config

if TYPE_CHECKING:
    from torch import nn

    from rmeeto_bench.checkpoints.reader import Provenance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("file", metavar="FILE", help="a .safetensors or .pth file, a public name, or org/repo:file")
    parser.add_argument(
        "--model", metavar="NAME", help="check every name and shape against this model, not the one that the file names"
    )
    parser.add_argument("--ema", action="store_true", help="check the averaged weights in the file")


def main(arguments: argparse.Namespace) -> int:
    """Print what was found; 2 with one line for a file that is damaged, unsafe or of another model."""
    from rmeeto_bench.checkpoints.hub import resolve
    from rmeeto_bench.checkpoints.verify import verify
    from rmeeto_bench.models.zoo import create_model

    if arguments.model is not None:
        config(arguments.model)
    path = resolve(arguments.file)
    fits = ""

    def model_for(provenance: Provenance, classes: int | None) -> nn.Module | None:
        nonlocal fits
        own = provenance.metadata.get("model")
        name = arguments.model or (own if own in MODELS else None)
        if name is None:
            return None
        fits = name if arguments.model else f"{name}, as the file says"
        sizes: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        return create_model(name, backend="reference", **sizes)

    found = verify(path, model_for, ema=arguments.ema)
    provenance = found.provenance
    output.say(f"file        {path}")
    output.say(f"sha256      {provenance.sha256}")
    wrapping = f", in {' > '.join(provenance.wrapping)}" if provenance.wrapping else ""
    output.say(f"format      {provenance.format}{wrapping}")
    output.say(f"family      {found.family}")
    dtypes = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    output.say(f"tensors     {found.tensors} ({dtypes}), {found.parameters:,} parameters, all finite")
    output.say(f"classes     {found.classes if found.classes is not None else 'no head'}")
    told = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    output.say(
        f"trained at  r = {provenance.trained_r if provenance.trained_r is not None else 'unknown'}; {told or 'no settings'}"
    )
    if provenance.epoch is not None:
        output.say(f"epoch       {provenance.epoch}")
    for note in provenance.notes:
        output.say(f"note        {note}")
    output.say(f"fits        {fits or 'not checked: give --model NAME'}")
    return 0
