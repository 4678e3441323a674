"""One training run from names to files: build, start from a checkpoint, train or resume, evaluate, save weights and log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmeeto_bench import files
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.fit import check_state
from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.positions import resize_pos_embed
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.checkpoints.trained import ways
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.cpus import within_quota
from rmeeto_bench.data.reading import STOP, Reading
from rmeeto_bench.errors import UsageError
from rmeeto_bench.measure.devices.device import cpu_name
from rmeeto_bench.models import videomamba
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.sizes import VimConfig, config
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.retrain.distill import prepare_teacher
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.feed import Feed, validation_batches
from rmeeto_bench.retrain.loop import Progress, Trainer, TrainingWatch, top1
from rmeeto_bench.retrain.made import decided, differences, header
from rmeeto_bench.retrain.recipe import Recipe
from rmeeto_bench.retrain.state import load_state, remove_states, save_state, state_files
from rmeeto_bench.retrain.training_sets import LabelledSet, find_training
from rmeeto_bench.version import __version__

EVALUATION_TOKENS = 250 * 197  # in a batch: 250 images of 224 pixels, or 31 clips


@dataclass(frozen=True)
class Files:
    """Where a training writes."""

    out: Path  # folder
    half: bool = False  # store the weights in fp16
    resume: bool = False  # go on from the last state, if there is one
    save_every: int = 200  # steps from state to state
    log_every: int = 20  # steps from line to line of the log
    force: bool = False  # replace a training that is there


@dataclass(frozen=True)
class Training:
    """What all trainings of one call share."""

    model: str  # name of the model
    recipe: Recipe  # how long and how to train
    data: Path | None  # a Fashion-MNIST folder, or one with `train/` and `val/`; None: the installed Fashion-MNIST
    init: str | None  # a checkpoint, or `none` for random weights; None: what the recipe starts from
    files: Files  # where it writes
    backend: str = "auto"  # kernels, a name of the registry or auto
    reduction: ReductionConfig = field(default_factory=ReductionConfig)  # how tokens are reduced; its r is each training's own
    workers: int = 0  # processes that decode images
    on_error: str = STOP  # `stop` at a file that cannot be read, or `skip` it
    class_map: Path | None = None  # file that gives the class folders their numbers

    def stem(self, r: int) -> Path:
        """Path of the files of one run without their ending: the reduction is named where it is not plain merging."""
        return self.files.out / f"{self.model}_r{r}{_way(self.reduction)}"

    @cached_property
    def sets(self) -> tuple[LabelledSet, LabelledSet]:
        """(training set cut to the recipe's fraction, complete validation set)."""
        sizes = {} if self.recipe.img_size is None else {"img_size": self.recipe.img_size}
        shape = config(self.model, **sizes).input_shape
        training, validation = find_training(self.data, shape, Reading(self.on_error), self.class_map)
        if self.recipe.fraction < 1:
            training = training.subset(round(len(training) * self.recipe.fraction))
        return training, validation


def _way(reduction: ReductionConfig) -> str:
    """What is not the method's own about a reduction, as part of a file's name."""
    return "".join(f"-{word}" for word in ways(reduction)).replace(" ", "-").replace(".", "_")  # a dot would begin an ending


@dataclass(frozen=True)
class Trained:
    """The files and the outcome of one training."""

    checkpoint: Path  # its weights; an interrupted training leaves a state and no weights
    log: Path  # file of its log
    top1: float | None  # percent on the validation set; None: interrupted
    minutes: float  # of training
    interrupted: bool  # whether it was stopped
    unreadable: tuple[str, ...] = ()  # training files that were skipped since the last resumption


def initial_weights(session: Training) -> str | None:
    """The checkpoint a run starts from, or None for random weights."""
    if session.init == "none":
        return None
    if session.init not in (None, "bundled"):
        return session.init
    if session.init is None and session.recipe.start == "scratch":
        return None
    shipped = bundled_checkpoint(session.model, 0)
    if session.init == "bundled" and shipped is None:
        raise UsageError(f"no weights for {session.model} ship with rmeeto-bench; give --init a file or a public name")
    return session.model if shipped is None else str(shipped)


def _fitted(state: dict[str, Tensor], model: ReducedModel) -> tuple[dict[str, Tensor], bool]:
    """The state with positions resized to the model's, an image model's kernel inflated for one of clips, and the model's
    own new head where the classes are others."""
    wanted, new_head = model.state_dict(), False
    if isinstance(model.config, VimConfig):
        state = videomamba.fitted(state, model.config)
    tokens = state.get("pos_embed")
    if tokens is not None and tokens.shape != wanted["pos_embed"].shape and tokens.shape[2:] == wanted["pos_embed"].shape[2:]:
        first = model.config.cls_position == 0
        state = {**state, "pos_embed": resize_pos_embed(tokens.float(), wanted["pos_embed"].shape[1] - 1, cls_first=first)}
    head = state.get("head.weight")
    if head is not None and head.shape[0] != model.config.num_classes and head.shape[1:] == wanted["head.weight"].shape[1:]:
        state = {**state, **{key: wanted[key] for key in ("head.weight", "head.bias")}}
        new_head = True
    return state, new_head


def build(session: Training, r: int, num_classes: int) -> ReducedModel:
    """The model at this r with the weights to start from. A head for other classes starts at random."""
    recipe = session.recipe
    torch.manual_seed(recipe.seed)
    sizes: dict[str, Any] = {"drop_path_rate": recipe.drop_path_rate, "num_classes": num_classes}
    if recipe.img_size is not None:
        sizes["img_size"] = recipe.img_size
    model = create_model(session.model, reduction=replace(session.reduction, r=r), backend=session.backend, **sizes)
    start = initial_weights(session)
    if start is not None:
        path = resolve(start)
        loaded = read_checkpoint(path)
        for note in loaded.provenance.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        state, new_head = _fitted(loaded.state_dict, model)
        check_state(state, model, path)
        if new_head and recipe.teacher.source == "self":
            raise UsageError(f"{path} has other classes than the data, so it cannot teach them; train with --teacher none")
        model.load_state_dict(state)
    return model


def asked_for(session: Training, r: int) -> dict[str, str]:
    """What decides the weights of the run at r, as its file would say it."""
    start = initial_weights(session)
    path = None if start is None else resolve(start)
    return decided(session.recipe, replace(session.reduction, r=r), path, session.sets, half=session.files.half)


def finished(session: Training, r: int) -> Trained | None:
    """The very training that is asked for, if it ran to its end; None if it is to be done, or to be gone on with.

    Raises `UsageError` in one line where training would replace something else, or lose a part of it.
    """
    stem, files = session.stem(r), session.files
    log, checkpoint, states = (stem.with_suffix(ending) for ending in (".jsonl", ".safetensors", ".state"))
    begun = bool(state_files(states))
    if files.force or not (begun or checkpoint.exists()):
        return None
    asked, there = asked_for(session, r), header(checkpoint) if checkpoint.exists() else {}
    unlike = differences(there, asked)
    if there.get("finished") == "yes" and not unlike:
        tail = json.loads(log.read_text(encoding="utf-8").splitlines()[-1]) if log.is_file() else {}
        minutes, skipped = tail.get("seconds", 0.0) / 60, tuple(tail.get("unreadable", ()))
        return Trained(checkpoint, log, float(there["top1"]), minutes, interrupted=False, unreadable=skipped)
    if begun and not files.resume:
        raise UsageError(f"{stem} was not finished; --resume continues it, --force starts again")
    if begun:
        state = load_state(states) or {}
        unlike = differences(state.get("decided", {}), asked)
        if unlike:
            raise UsageError(f"{states} is of another training: {'; '.join(unlike)}; give the same again, or --force")
        return None
    why = "; ".join(unlike) or "it was cut short, and its states are gone"
    raise UsageError(f"{checkpoint} is there and is another training ({why}); --force replaces it, or choose another --out")


def train_one(
    session: Training,
    r: int,
    world: World,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train at one r; writes `<out>/<model>_r<r>.safetensors` and `.jsonl` (see `Training.stem`), and while it trains its
    state to `<stem>.state/`. `top1` is that of the weights as trained, before any rounding to fp16."""
    training, validation = session.sets
    for part in (training, validation) if world.leads else ():
        for note in part.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
    if world.device.type == "cpu" and world.size == 1:
        torch.set_num_threads(within_quota(torch.get_num_threads()))
    made = asked_for(session, r)
    model = build(session, r, training.num_classes).to(world.device)
    if world.leads:
        print(f"note: {session.model} trains on {model.kernels_account}", file=sys.stderr, flush=True)
    teacher: nn.Module | None = None
    if session.recipe.teacher.source == "self":
        teacher = prepare_teacher(build(session, 0, training.num_classes).to(world.device), session.recipe.teacher)
    shape = model.config.input_shape
    feed = Feed(training, shape, session.recipe, world, session.workers)
    trainer = Trainer(model, feed, teacher)
    states = session.stem(r).with_suffix(".state")
    if session.files.resume:
        state = load_state(states)
        if state is not None:
            trainer.load(state)
    elif world.leads:
        remove_states(states)
    world.wait()
    watch = TrainingWatch(
        on_progress=on_progress,
        should_stop=should_stop,
        every=session.files.log_every,
        save=lambda step, state: _save(states, step, {**state, "decided": made}),
        save_every=session.files.save_every,
    )
    outcome = trainer.run(watch)
    accuracy = None if outcome.interrupted else _evaluated(trainer, validation, watch)
    stem = session.stem(r)
    trained = Trained(
        stem.with_suffix(".safetensors"), stem.with_suffix(".jsonl"), accuracy, outcome.seconds / 60, accuracy is None,
        world.union(feed.unreadable),
    )  # fmt: skip
    if world.leads:
        _write(session, r, trainer, trained, made)
        if not trained.interrupted:
            remove_states(states)
    world.wait()
    return trained


def _evaluated(trainer: Trainer, validation: LabelledSet, watch: TrainingWatch) -> float | None:
    """Top-1 of a run that is trained; None if it was stopped here, and then the trained state is saved."""
    model, world = trainer.model, trainer.world
    assert isinstance(model, ReducedModel)
    batch = max(1, EVALUATION_TOKENS // model.config.num_tokens)
    batches = validation_batches(validation, model.config.input_shape, world, batch)
    try:
        accuracy = top1(trainer.weights.eval(), batches, world, watch.should_stop)
    except KeyboardInterrupt:
        if world.size > 1:
            raise
        accuracy = None
    if accuracy is None:
        trainer.save(watch)
    return accuracy


def _save(folder: Path, step: int, state: dict[str, Any]) -> None:
    save_state(folder, step, state)


def _write(session: Training, r: int, trainer: Trainer, trained: Trained, made: dict[str, str]) -> None:
    """Weights of a finished run, and its log; each complete or not at all."""
    recipe, feed = session.recipe, trainer.feed
    vim = trainer.model
    assert isinstance(vim, ReducedModel)
    if trained.top1 is not None:
        metadata = {
            "model": session.model,
            "r": str(r),
            "reduction_ratio": f"{vim.reduction_ratio:.4f}",
            **made,
            "num_classes": str(feed.data.num_classes),
            "preprocessing": repr(feed.prepared),
            "recipe": recipe.name,
            "epochs": f"{trainer.step / trainer.steps_per_epoch:.2f}",
            "finished": "yes",
            "weights": "raw" if trainer.ema is None else "ema",
            "top1": f"{trained.top1:.2f}",
            "version": __version__,
        }
        dtype = torch.float16 if session.files.half else None
        save_checkpoint(trainer.weights.state_dict(), trained.checkpoint, metadata=metadata, dtype=dtype)
    head = {
        "model": session.model,
        "reduction": asdict(vim.reduction),
        "reduction_ratio": vim.reduction_ratio,
        "init": session.init,
        "recipe": asdict(recipe),
        "data": feed.data.name,
        "training_images": len(feed.data),
        "processes": feed.world.size,
        "device": torch.cuda.get_device_name() if feed.world.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "kernels": vim.kernels_name,
        "threads": torch.get_num_threads(),
        "processor": cpu_name(),
    }
    tail = {
        "top1": trained.top1,
        "n_images": len(session.sets[1]),
        "seconds": 60 * trained.minutes,
        "interrupted": trained.interrupted,
        "unreadable": trained.unreadable,
    }
    lines = [head, *(asdict(line) for line in trainer.log), tail]
    files.write_atomic(trained.log, "".join(json.dumps(line) + "\n" for line in lines))
