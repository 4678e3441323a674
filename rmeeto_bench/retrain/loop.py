"""The training loop: plain, seeded, one process. Distributed and larger data sets are not covered here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.retrain.augment import random_flip, random_shift
from rmeeto_bench.retrain.recipe import Recipe


@dataclass(frozen=True)
class Progress:
    """One line of a training log: after `step` of `steps` optimizer steps."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a training run ended. `interrupted` is true if `should_stop` ended it early."""

    steps: int
    images: int
    seconds: float
    interrupted: bool
    log: tuple[Progress, ...] = field(repr=False)


def learning_rate(recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then cosine from `lr` to `min_lr`, which the last step reaches."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Optimizer groups with and without weight decay."""
    if not recipe.decay_matrices_only:
        return [{"params": list(model.parameters()), "weight_decay": recipe.weight_decay}]
    matrices = [p for name, p in model.named_parameters() if p.dim() >= 2 and not name.endswith(("_log", "_embed", "_token"))]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def training_batches(data: TensorSet, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented, normalised batches (images fp32 [B, C, H, W], labels int64 [B]); an incomplete one is dropped."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data), generator=generator)[: round(len(data) * recipe.fraction)]
    for chosen in order.split(recipe.batch_size):
        if len(chosen) < recipe.batch_size:
            return
        pixels = random_shift(data.pixels[chosen], recipe.crop_padding, generator)
        if recipe.flip:
            pixels = random_flip(pixels, generator)
        images = data.normalisation(pixels)
        if recipe.img_size is not None and recipe.img_size != images.shape[-1]:
            images = F.interpolate(images, size=recipe.img_size, mode="area")
        yield images, data.labels[chosen]


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) at temperature 1, averaged over the batch. logits [B, classes]."""
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Watch:
    """What the caller sees and steers of a run: `on_progress` every `every` steps, `should_stop` after each step."""

    on_progress: Callable[[Progress], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    every: int = 20


def train(model: nn.Module, data: TensorSet, recipe: Recipe, watch: Watch, teacher: nn.Module | None = None) -> Outcome:
    """Train `model` in place. `teacher` must be given for `recipe.teacher == "self"`.

    Raises `MeasurementError` when the loss is not finite.
    """
    torch.manual_seed(recipe.seed)
    device = next(model.parameters()).device
    steps_per_epoch = int(len(data) * recipe.fraction) // recipe.batch_size
    steps = max(1, round(recipe.epochs * steps_per_epoch))
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), lr=recipe.lr, betas=recipe.betas, fused=True)
    log: list[Progress] = []
    losses: list[Tensor] = []
    model.train()
    started = last = time.perf_counter()
    step, epoch, stopped = 0, 0, False
    while step < steps and not stopped:
        for images, labels in training_batches(data, recipe, epoch):
            rate = learning_rate(recipe, step, steps, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses.append(_step(model, images.to(device), labels.to(device), recipe, optimizer, teacher))
            step += 1
            if step % watch.every == 0 or step == steps:
                now = time.perf_counter()
                loss = float(torch.stack(losses).mean())
                if not math.isfinite(loss):
                    raise MeasurementError(f"the loss became {loss} at step {step}; lower the learning rate")
                rate_now = len(losses) * recipe.batch_size / (now - last)
                log.append(Progress(step, steps, step / steps_per_epoch, loss, rate, rate_now, now - started))
                watch.on_progress(log[-1])
                losses, last = [], now
            stopped = watch.should_stop()
            if step == steps or stopped:
                break
        epoch += 1
    model.eval()
    return Outcome(step, step * recipe.batch_size, time.perf_counter() - started, stopped and step < steps, tuple(log))


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    teacher: nn.Module | None,
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    logits = model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher is not None:
        with torch.no_grad():
            target = teacher(images)
        loss = loss + recipe.distill_weight * distillation_loss(logits, target)
    loss.backward()
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return loss.detach()


@torch.inference_mode()
def top1(model: nn.Module, data: TensorSet, batch_size: int) -> float:
    """Percent of images whose first prediction is right."""
    device = next(model.parameters()).device
    correct = 0
    for batch in data.batches(batch_size):
        correct += int((model(batch.images.to(device)).argmax(-1).cpu() == batch.labels).sum())
    return 100 * correct / len(data)
