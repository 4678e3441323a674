"""The settings of a training run besides model, data and merging: frozen, printable, grouped by subject."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from rmeeto_bench.errors import UsageError
from rmeeto_bench.validate import one_of

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Schedule:
    """How long, and at which learning rate. The rate falls along a cosine after a linear warm-up."""

    epochs: float  # of the whole training
    lr: float  # learning rate at the top of the schedule
    min_lr: float  # learning rate at the end of the cosine
    warmup_epochs: float = 0.0  # of linear warm-up
    # step: per optimizer step, reaching `min_lr` in the last one; upstream_epoch: per epoch as the released code does it,
    # one epoch late (epochs 0 and 1 both at `lr`) and never at `min_lr`
    shape: str = "step"
    # images per optimizer step that `lr` is meant for; another number scales `lr` in proportion, `min_lr` stays. None: `lr`
    # as it is
    lr_for_batch: int | None = None


@dataclass(frozen=True)
class Optimisation:
    """AdamW, and how its gradients are made."""

    batch_size: int  # images (copies included) per process and micro-batch
    accumulation: int = 1  # micro-batches per optimizer step, which takes their mean
    upstream_accumulation: bool = False  # as the released code: a step after every micro-batch and a third after the second
    weight_decay: float = 0.05  # AdamW's
    # weight decay on all parameters, on matrices (two and more dimensions, no embeddings, no A), or on video_matrices (as
    # VideoMamba: A decays too)
    decay_on: str = "all"
    # to the power of depth + 1, scales the rate of the embeddings (VideoMamba's, where no block is scaled)
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    clip_norm: float | None = None  # largest norm of the gradient; None: no clipping
    precision: str = "fp32"  # of the forward: fp32, bf16, or fp16 with loss scaling


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images. What is random about a clip is the same for all of its frames."""

    crop: str = "shift"  # shift (by up to `crop_padding` pixels), resized (random resized crop, bicubic) or none
    crop_padding: int = 2  # pixels
    crop_scale: tuple[float, float] = (0.08, 1.0)  # least and most share of the area that a resized crop takes
    flip: bool = True  # mirror half of the images
    randaugment: str = "none"  # timm's description, or none
    erasing: float = 0.0  # probability of random erasing
    mixup: float = 0.0  # alpha of mixup; 0: off
    cutmix: float = 0.0  # alpha of cutmix; 0: off
    label_smoothing: float = 0.1  # share of the label that is spread over all classes
    # repeated augmentation: each image appears this often per epoch, augmented each time; an epoch has as many samples as
    # without
    repeats: int = 1
    # of an item that is decoded once; they go into the same micro-batch, each augmented by itself, and an epoch has that
    # many times the samples (VideoMamba's num_sample)
    copies: int = 1


@dataclass(frozen=True)
class Teacher:
    """Self-distillation."""

    source: str = "none"  # none, or self (the initial weights, unmerged)
    weight: float = 0.5  # of the KL divergence, which is added to the cross-entropy
    train_mode: bool = False  # leave drop path on in the teacher, as the released code does


@dataclass(frozen=True)
class Recipe:
    """A whole recipe."""

    name: str  # of the recipe
    schedule: Schedule  # length and learning rate
    optimisation: Optimisation  # optimizer and batches
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the training images
    teacher: Teacher = field(default_factory=Teacher)  # self-distillation
    drop_path_rate: float = 0.0  # stochastic depth of the last block
    ema_decay: float | None = None  # of an exponential moving average of the weights, which is then shipped; None: no average
    img_size: int | None = None  # overrides the model's (progressive resizing); None: the model's own
    fraction: float = 1.0  # fixed part of the training images, evenly over the classes; validation is never cut
    seed: int = 0  # of the order and the augmentation
    start: str = "baseline"  # baseline weights or from scratch, unless the caller names a checkpoint

    def __post_init__(self) -> None:
        choices = {
            "shape": (self.schedule.shape, ("step", "upstream_epoch")),
            "decay_on": (self.optimisation.decay_on, ("all", "matrices", "video_matrices")),
            "precision": (self.optimisation.precision, ("fp32", "bf16", "fp16")),
            "crop": (self.augmentation.crop, ("none", "shift", "resized")),
            "teacher": (self.teacher.source, ("none", "self")),
            "start": (self.start, ("baseline", "scratch")),
        }
        for name, (value, allowed) in choices.items():
            one_of(name, value, allowed)
        augmentation = self.augmentation
        counts = (self.optimisation.batch_size, self.optimisation.accumulation, augmentation.repeats, augmentation.copies)
        if self.schedule.epochs <= 0 or self.schedule.lr <= 0 or min(counts) < 1:
            raise UsageError("epochs, lr, batch size, accumulation, repeats and copies must be positive")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"fraction is a part of the training images in (0, 1], not {self.fraction}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay lies in [0, 1), not {self.ema_decay}")
        self._check_together()

    def _check_together(self) -> None:
        if self.mixes and self.optimisation.batch_size % 2:
            raise UsageError("mixup and cutmix pair the images of a batch: take an even batch size")
        if self.optimisation.batch_size % self.augmentation.copies:
            raise UsageError(f"the batch size must be a multiple of the {self.augmentation.copies} copies of an item")
        if self.optimisation.upstream_accumulation and (
            self.optimisation.accumulation != 2 or self.optimisation.precision != "fp32"
        ):
            raise UsageError(
                "upstream's accumulation is defined for 2 micro-batches in fp32; set accumulation 2, precision fp32"
            )
        if self.schedule.shape == "upstream_epoch" and self.schedule.warmup_epochs:
            raise UsageError("the upstream_epoch schedule has no warm-up; set warmup_epochs to 0")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, so that labels are distributions."""
        return self.augmentation.mixup > 0 or self.augmentation.cutmix > 0

    def samples_per_step(self, processes: int) -> int:
        """Images per optimizer step."""
        return self.optimisation.batch_size * self.optimisation.accumulation * processes

    def peak_lr(self, processes: int) -> float:
        """The learning rate at the top of the schedule for this number of processes."""
        meant_for = self.schedule.lr_for_batch
        return self.schedule.lr * (1.0 if meant_for is None else self.samples_per_step(processes) / meant_for)


def as_set(part: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a recipe but its name with its value, dotted, as `--set` takes them."""
    for one in fields(part):
        value = getattr(part, one.name)
        if is_dataclass(value):
            yield from as_set(value, f"{one.name}.")
        elif one.name != "name":
            yield within + one.name, ",".join(map(str, value)) if isinstance(value, tuple) else value


def changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """A recipe, or a reduction, with dotted fields replaced, as in {"schedule.epochs": 3}. Values given as text are parsed as
    the field's type. Raises `UsageError`, which lists the known fields."""
    for path, value in changes.items():
        settings = _replaced(settings, path.split("."), value, path)
    return settings


def _replaced(part: Any, names: list[str], value: Any, path: str) -> Any:
    known = [f.name for f in fields(part) if f.name != "name"]
    if names[0] not in known:
        raise UsageError(f"there is no {path}, only {', '.join(known)}")
    old = getattr(part, names[0])
    if len(names) > 1:
        if not is_dataclass(old):
            raise UsageError(f"there is no {path}: {names[0]} is a single value")
        return replace(part, **{names[0]: _replaced(old, names[1:], value, path)})
    if is_dataclass(old):
        raise UsageError(f"{path} is a group; set one of {', '.join(f'{path}.{f.name}' for f in fields(old))}")
    annotation = next(str(f.type) for f in fields(part) if f.name == names[0])
    return replace(part, **{names[0]: _read(value, annotation, path)})


def _read(value: Any, annotation: str, path: str) -> Any:
    """Parse text as the type that `annotation` names; other values are returned unchanged."""
    if not isinstance(value, str) or annotation == "str":
        return value
    if "None" in annotation and value.lower() == "none":
        return None
    kind = annotation.removesuffix(" | None")
    try:
        literal = ast.literal_eval(value.capitalize() if kind == "bool" else value)
        if kind == "bool" and isinstance(literal, bool):
            return literal
        if kind == "int" and isinstance(literal, int) and not isinstance(literal, bool):
            return literal
        if kind == "float" and isinstance(literal, (int, float)) and not isinstance(literal, bool):
            return float(literal)
        if kind.startswith("tuple") and isinstance(literal, tuple) and len(literal) == 2:
            return tuple(float(number) for number in literal)
    except (ValueError, SyntaxError, TypeError):
        pass
    raise UsageError(f"{path} takes {annotation}, not {value!r}")
