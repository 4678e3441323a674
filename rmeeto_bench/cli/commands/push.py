"""`rmeeto-bench push`: publish a re-trained checkpoint with a model card, on the hub or into a folder."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rmeeto_bench.cli import output
from rmeeto_bench.models.sizes import config

if TYPE_CHECKING:
    from rmeeto_bench.checkpoints.publish import Publication, PublishedAccuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="as retrain writes it, or an upstream .pth")
    parser.add_argument("--to", required=True, metavar="WHERE", help="org/repo on the hub, or a folder")
    parser.add_argument("--model", metavar="NAME", help="the model (default: what the file says)")
    parser.add_argument("--r", type=int, metavar="R", help="r it was trained at (default: what the file says)")
    parser.add_argument("--run", type=Path, metavar="RUN", help="run that measured this file: its accuracy goes into the card")
    parser.add_argument("--base", metavar="NAME", help="the model it was re-trained from, as org/repo")
    parser.add_argument("--license", default="mit", metavar="ID", help="of the weights (default: mit)")
    parser.add_argument("--force", action="store_true", help="replace a publication in the folder --to")
    parser.add_argument("--private", action="store_true", help="a repository that only you can see")


def _accuracy(run: Path, digest: str) -> PublishedAccuracy:
    """What a run measured of the file with this digest. Raises `CheckpointError` if it did not."""
    from rmeeto_bench.checkpoints.publish import PublishedAccuracy
    from rmeeto_bench.errors import CheckpointError
    from rmeeto_bench.records.run import load, require_measured

    record = load(run)
    require_measured(record)
    for arm in record.arms:
        if arm.checkpoint_sha256 == digest and arm.top1 is not None:
            data = record.data.get(arm.model, {})
            name = data.get("name") if isinstance(data, dict) else None
            return PublishedAccuracy(str(name or "an unnamed set"), arm.n_images, arm.top1, arm.delta_top1, record.run_id)
    raise CheckpointError(f"run {record.run_id} has no accuracy of the file with sha256 {digest[:12]}…; measure it with --data")


def _publication(arguments: argparse.Namespace) -> Publication:
    from rmeeto_bench.checkpoints.publish import Publication
    from rmeeto_bench.checkpoints.reader import read_checkpoint
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.models.timm_models import BUNDLED, timm_name
    from rmeeto_bench.reduction.config import ReductionConfig
    from rmeeto_bench.reduction.schedule import reduction_ratio

    provenance = read_checkpoint(arguments.checkpoint).provenance
    for note in provenance.notes:
        output.say(f"note: {note}", error=True)
    own_model, own_r = provenance.metadata.get("model"), provenance.trained_r
    for name, told in (("model", own_model), ("r", own_r)):
        typed = getattr(arguments, name)
        if None not in (typed, told) and typed != told:
            raise UsageError(f"{arguments.checkpoint} says that its {name} is {told}, not {typed}; leave --{name} out")
    model = arguments.model or own_model
    r = own_r if arguments.r is None else arguments.r
    if model is None or r is None:
        raise UsageError(f"{arguments.checkpoint} does not say its model and r; give --model and --r")
    sized = config(model)
    reduction = provenance.reduction or ReductionConfig(r=r)
    return Publication(
        checkpoint=arguments.checkpoint,
        architecture=None if model in BUNDLED else timm_name(model),
        model=model,
        r=r,
        reduction_ratio=reduction_ratio(sized.token_counts(reduction), sized.num_tokens),
        num_classes=provenance.num_classes or sized.num_classes,
        accuracy=None if arguments.run is None else _accuracy(arguments.run, provenance.sha256),
        base=arguments.base,
        licence=arguments.license,
    )


def main(arguments: argparse.Namespace) -> int:
    """Write the folder, upload it if it goes to the hub, and say where it is."""
    from rmeeto_bench.checkpoints.publish import is_hub_name, push, write_repository

    publication = _publication(arguments)
    if not is_hub_name(arguments.to):
        output.say(write_repository(publication, Path(arguments.to), force=arguments.force))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        output.say(push(write_repository(publication, Path(scratch)), arguments.to, private=arguments.private))
    return 0
