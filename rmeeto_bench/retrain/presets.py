"""The named recipes: functions that return a frozen `Recipe` (paper section 4 and its released scripts)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rmeeto_bench.errors import UsageError
from rmeeto_bench.retrain.recipe import Augmentation, Optimisation, Recipe, Schedule, Teacher

NANO_AUGMENTATION = Augmentation(label_smoothing=0.05)
IMAGENET_AUGMENTATION = Augmentation(
    crop="resized",
    randaugment="rand-m9-mstd0.5-inc1",
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    repeats=3,
)


def paper() -> Recipe:
    """Vim on ImageNet as the paper describes it, without the released code's slips: 4 GPUs of 128 images, 1024 a step.

    15 epochs are its Vim-S and Vim-B; Vim-Ti takes 30, the ablations 3. Plain cross-entropy, as in the text.
    """
    return Recipe(
        name="paper",
        schedule=Schedule(epochs=15, lr=2e-5, min_lr=1e-6, lr_for_batch=1024),
        optimisation=Optimisation(batch_size=128, accumulation=2),
        augmentation=IMAGENET_AUGMENTATION,
        drop_path_rate=0.1,
    )


def upstream_exact() -> Recipe:
    """What the released image scripts do: three optimizer steps per two micro-batches, a schedule one epoch late, and
    a teacher whose drop path is on."""
    correct = paper()
    return replace(
        correct,
        name="upstream_exact",
        schedule=replace(correct.schedule, shape="upstream_epoch"),
        optimisation=replace(correct.optimisation, upstream_accumulation=True),
        teacher=Teacher("self", weight=0.5, train_mode=True),
    )


def video_paper() -> Recipe:
    """VideoMamba on K400: 4 GPUs of 32 videos, each augmented twice, two micro-batches. 30 epochs for Ti, 15 else."""
    return Recipe(
        name="video_paper",
        schedule=Schedule(epochs=15, lr=4e-5, min_lr=2e-6, warmup_epochs=5, lr_for_batch=512),
        optimisation=Optimisation(
            batch_size=64,
            accumulation=2,
            weight_decay=0.1,
            decay_on="video_matrices",
            layer_decay=0.75,
            precision="bf16",
        ),
        augmentation=replace(IMAGENET_AUGMENTATION, randaugment="rand-m5-n2-mstd0.25-inc1", repeats=1, copies=2),
        drop_path_rate=0.1,
    )


def nano_low() -> Recipe:
    """vim_nano from scratch, first stage: half resolution (50 tokens), most of the epochs at a quarter of the cost."""
    return Recipe(
        name="nano_low",
        schedule=Schedule(epochs=5, lr=3e-3, min_lr=1e-4, warmup_epochs=0.3),
        optimisation=Optimisation(batch_size=64, decay_on="matrices", clip_norm=1.0),
        augmentation=replace(NANO_AUGMENTATION, crop_padding=1),
        img_size=14,
        start="scratch",
    )


def nano_full() -> Recipe:
    """vim_nano, second stage: full resolution (197 tokens), from the first stage's weights."""
    return Recipe(
        name="nano_full",
        schedule=Schedule(epochs=3, lr=1.5e-3, min_lr=1e-5, warmup_epochs=0.1),
        optimisation=Optimisation(batch_size=64, decay_on="matrices", clip_norm=1.0),
        augmentation=NANO_AUGMENTATION,
        start="scratch",
    )


def nano_retrain() -> Recipe:
    """What made the bundled re-trained weights: two epochs from the baseline, merging on, cosine, no warm-up."""
    return Recipe(
        name="nano_retrain",
        schedule=Schedule(epochs=2, lr=1e-3, min_lr=1e-5),
        optimisation=Optimisation(batch_size=64, clip_norm=1.0),
        augmentation=NANO_AUGMENTATION,
    )


def nano() -> Recipe:
    """The demonstration on two CPU cores: `nano_retrain` for one epoch on half of the images."""
    once = nano_retrain()
    return replace(once, name="nano", schedule=replace(once.schedule, epochs=1), fraction=0.5)


def recipe_for(model: str) -> Recipe:
    """The recipe that a model's training is timed with: the paper's, or that of the bundled model."""
    if model.startswith("vim_nano"):
        return nano_retrain()
    return video_paper() if model.startswith("videomamba") else paper()


PRESETS: dict[str, Callable[[], Recipe]] = {
    "paper": paper,
    "upstream_exact": upstream_exact,
    "video_paper": video_paper,
    "nano": nano,
    "nano_low": nano_low,
    "nano_full": nano_full,
    "nano_retrain": nano_retrain,
}


def preset(name: str) -> Recipe:
    """The recipe by name; raises `UsageError` naming those there are."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; choose {', '.join(PRESETS)}")
    return PRESETS[name]()
