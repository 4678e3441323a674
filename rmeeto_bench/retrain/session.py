"""One training run from names to files: build, start from a checkpoint, train, evaluate, save weights and log."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rmeeto_bench import __version__
from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import load_checkpoint, read_checkpoint
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.data import fashion_mnist
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.positions import resize_pos_embed
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.records import write_atomic
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.retrain.loop import Progress, Watch, top1, train
from rmeeto_bench.retrain.recipe import Recipe


@dataclass(frozen=True)
class Session:
    """What all runs of one call share. `data` is a Fashion-MNIST folder or None for the installed one; `reduction` is how
    tokens are reduced (its r is each run's own); `half` writes the weights in fp16."""

    model: str
    recipe: Recipe
    data: Path | None
    init: str | None
    backend: str
    out: Path
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    half: bool = False

    def stem(self, r: int) -> Path:
        """Path of the files of one run without their ending: the reduction is named where it is not plain merging."""
        way = ("-prune" if self.reduction.prune else "") + ("" if self.reduction.ordered else "-unordered")
        return self.out / f"{self.model}_r{r}{way}"


@dataclass(frozen=True)
class Trained:
    """The files and the outcome of one run; `top1` in percent on the test split."""

    checkpoint: Path
    log: Path
    top1: float
    minutes: float
    interrupted: bool


def _build(session: Session, r: int) -> ReducedModel:
    """The model at this r with the weights to start from, position embeddings resized if the image size differs."""
    torch.manual_seed(session.recipe.seed)
    sizes: dict[str, Any] = {"drop_path_rate": session.recipe.drop_path_rate}
    if session.recipe.img_size is not None:
        sizes["img_size"] = session.recipe.img_size
    reduction = replace(session.reduction, r=r)
    model = create_model(session.model, reduction=reduction, backend=session.backend, **sizes)
    if session.init is not None:
        path = resolve(session.init)
        state = read_checkpoint(path).state_dict
        if state["pos_embed"].shape != model.pos_embed.shape:
            first = model.config.cls_position == 0
            resized = resize_pos_embed(state["pos_embed"].float(), model.config.num_patches, cls_first=first)
            state = {**state, "pos_embed": resized}
            model.load_state_dict(state)
        else:
            load_checkpoint(model, path)
    return model


def train_one(session: Session, r: int, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Trained:
    """Train at one r; writes `<out>/<model>_r<r>.safetensors` and `.jsonl` (see `Session.stem`).

    `top1` is that of the weights as trained, before any rounding to fp16.
    """
    recipe = session.recipe
    training = fashion_mnist.load("train", session.data)
    test = fashion_mnist.load("test", session.data).resized(recipe.img_size)
    model = _build(session, r)
    teacher = _build(session, 0) if recipe.teacher == "self" else None
    outcome = train(model, training, recipe, Watch(on_progress, should_stop), teacher)
    accuracy = top1(model, test, 250)
    stem = session.stem(r)
    metadata = {
        "model": session.model,
        "r": str(r),
        "recipe": recipe.name,
        "epochs": f"{outcome.steps * recipe.batch_size / (len(training) * recipe.fraction):.2f}",
        "data": training.name,
        "top1": f"{accuracy:.2f}",
        "version": __version__,
    }
    dtype = torch.float16 if session.half else None
    checkpoint = save_checkpoint(model.state_dict(), stem.with_suffix(".safetensors"), metadata=metadata, dtype=dtype)
    head = {
        "model": session.model,
        "reduction": asdict(model.reduction),
        "init": session.init,
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "kernels": model.kernels_name,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }
    tail = {"top1": accuracy, "n_images": len(test), "seconds": outcome.seconds, "interrupted": outcome.interrupted}
    lines = [head, *(asdict(progress) for progress in outcome.log), tail]
    log = stem.with_suffix(".jsonl")
    write_atomic(log, "".join(json.dumps(line) + "\n" for line in lines))
    return Trained(checkpoint, log, accuracy, outcome.seconds / 60, outcome.interrupted)
