"""Named training recipes: functions that return a frozen, printable configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rmeeto_bench.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides model, data and merging.

    `lr` and `min_lr` are the ends of a per-step cosine after `warmup_epochs` of linear warm-up. `weight_decay` acts on
    all parameters, or with `decay_matrices_only` on those of two and more dimensions. `teacher` is `none` or `self`
    (the initial weights without merging, in eval mode; loss = cross-entropy + `distill_weight` * KL(teacher||student)).
    `img_size` overrides the model's (progressive resizing); `crop_padding` pixels of random shift; `flip` mirrors half
    of the images; `fraction` of the training images per epoch.
    """

    name: str
    epochs: float
    batch_size: int
    lr: float
    min_lr: float
    warmup_epochs: float = 0.0
    weight_decay: float = 0.05
    decay_matrices_only: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    label_smoothing: float = 0.1
    drop_path_rate: float = 0.0
    teacher: str = "none"
    distill_weight: float = 0.5
    img_size: int | None = None
    crop_padding: int = 2
    flip: bool = True
    fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.teacher not in ("none", "self"):
            raise UsageError(f"teacher is none or self, not {self.teacher!r}")
        if self.epochs <= 0 or not 0 < self.fraction <= 1 or self.batch_size < 1:
            raise UsageError("epochs and batch size must be positive, fraction in (0, 1]")


def nano_low() -> Recipe:
    """vim_nano from scratch, first stage: half resolution (50 tokens), most of the epochs at a quarter of the cost."""
    return Recipe(
        name="nano_low",
        epochs=5,
        batch_size=64,
        lr=3e-3,
        min_lr=1e-4,
        warmup_epochs=0.3,
        decay_matrices_only=True,
        clip_norm=1.0,
        label_smoothing=0.05,
        img_size=14,
        crop_padding=1,
    )


def nano_full() -> Recipe:
    """vim_nano, second stage: full resolution (197 tokens), from the first stage's weights."""
    return Recipe(
        name="nano_full",
        epochs=3,
        batch_size=64,
        lr=1.5e-3,
        min_lr=1e-5,
        warmup_epochs=0.1,
        decay_matrices_only=True,
        clip_norm=1.0,
        label_smoothing=0.05,
    )


def nano_retrain() -> Recipe:
    """The paper's re-training scaled down to vim_nano: start from the baseline, merging on, cosine, no warm-up, AdamW."""
    return Recipe(
        name="nano_retrain",
        epochs=2,
        batch_size=64,
        lr=1e-3,
        min_lr=1e-5,
        label_smoothing=0.05,
        clip_norm=1.0,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "nano_low": nano_low,
    "nano_full": nano_full,
    "nano_retrain": nano_retrain,
}


def recipe(name: str) -> Recipe:
    """The recipe by name; raises `UsageError` naming those there are."""
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}; choose {', '.join(RECIPES)}")
    return RECIPES[name]()
