"""What decides a training run besides model, data and merging: frozen, printable, grouped by what it is about."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from rmeeto_bench.errors import UsageError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Schedule:
    """How long, and at which learning rate.

    `lr` falls to `min_lr` along a cosine after `warmup_epochs` of linear warm-up. shape `step`: per optimizer step,
    reaching `min_lr` in the last one. shape `upstream_epoch`: per epoch as the released code does it, one epoch late
    (epochs 0 and 1 both at `lr`) and never at `min_lr`. `lr_for_batch`: images per optimizer step that `lr` is meant
    for; another number scales it in proportion, `min_lr` stays (None: `lr` as it is).
    """

    epochs: float
    lr: float
    min_lr: float
    warmup_epochs: float = 0.0
    shape: str = "step"
    lr_for_batch: int | None = None


@dataclass(frozen=True)
class Optimisation:
    """AdamW and how its gradients are made.

    `batch_size` images (copies included) per process and micro-batch; `accumulation` micro-batches per optimizer step, by
    their mean, or with `upstream_accumulation` as the released code: a step after every micro-batch and a third after
    the second.
    `decay_on`: weight decay on `all` parameters, on `matrices` (two and more dimensions, no embeddings, no A), or on
    `video_matrices` (as VideoMamba: A decays too). `layer_decay` to the power of depth + 1 scales the rate of the
    embeddings (VideoMamba's, where no block is scaled). `precision` of the forward: fp32, bf16, or fp16 with loss scaling.
    """

    batch_size: int
    accumulation: int = 1
    upstream_accumulation: bool = False
    weight_decay: float = 0.05
    decay_on: str = "all"
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    precision: str = "fp32"


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images. `crop`: `shift` by up to `crop_padding` pixels, `resized` (random resized crop of
    `crop_scale` of the area, bicubic) or `none`; `flip` mirrors half; `randaugment` is timm's description or "none";
    `erasing` its probability; `mixup` and `cutmix` their alphas (0 off); every image comes `repeats` times an epoch,
    augmented anew, while the samples of an epoch stay as many (repeated augmentation). `copies` of what is decoded once go
    into the same micro-batch, each augmented by itself, and an epoch has that many times the samples (VideoMamba's
    `num_sample`). What is random about a clip is the same for all of its frames."""

    crop: str = "shift"
    crop_padding: int = 2
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    randaugment: str = "none"
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.1
    repeats: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Teacher:
    """Self-distillation: `source` none, or self (the initial weights, unmerged); loss = cross-entropy + `weight` * KL.
    `train_mode` leaves drop path on in the teacher, as the released code does."""

    source: str = "none"
    weight: float = 0.5
    train_mode: bool = False


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `start`: `baseline` weights or from `scratch`, unless the caller names a checkpoint.

    `img_size` overrides the model's (progressive resizing). `fraction`: a fixed part of the training images, evenly over
    the classes; validation is never cut. `ema_decay`: keep an exponential moving average of the weights, and ship it.
    """

    name: str
    schedule: Schedule
    optimisation: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)
    teacher: Teacher = field(default_factory=Teacher)
    drop_path_rate: float = 0.0
    ema_decay: float | None = None
    img_size: int | None = None
    fraction: float = 1.0
    seed: int = 0
    start: str = "baseline"

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
            if value not in allowed:
                raise UsageError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
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
        """Images that one optimizer step sees."""
        return self.optimisation.batch_size * self.optimisation.accumulation * processes

    def peak_lr(self, processes: int) -> float:
        """The learning rate at the top of the schedule for this number of processes."""
        meant_for = self.schedule.lr_for_batch
        return self.schedule.lr * (1.0 if meant_for is None else self.samples_per_step(processes) / meant_for)


def changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """A recipe, or a reduction, with dotted fields replaced, as in {"schedule.epochs": 3}. Values given as text are read by
    the field's own type. Raises `UsageError` naming the fields there are."""
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
    """Text as the type that `annotation` names; other values pass through."""
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
