"""The training loop: seeded by place, the same for any number of processes, and resumable at every optimizer step."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmeeto_bench.errors import CheckpointError, MeasurementError
from rmeeto_bench.retrain.augment import BatchMix
from rmeeto_bench.retrain.distill import teacher_logits, training_loss
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.feed import Feed
from rmeeto_bench.retrain.optimiser import Stepper, learning_rate

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Progress:
    """One line of a training log."""

    step: int  # optimizer steps done
    steps: int  # optimizer steps of the whole training
    epoch: float  # passes over the images
    loss: float  # mean over the processes, since the line before
    lr: float  # learning rate
    images_per_second: float  # of all processes together
    seconds: float  # of training so far, over all resumptions
    data_wait: float = 0.0  # share of the time spent waiting for images


@dataclass(frozen=True)
class TrainingEnd:
    """How a training ended."""

    steps: int  # optimizer steps done
    images: int  # of all processes
    seconds: float  # of training, over all resumptions
    interrupted: bool  # whether `should_stop` ended it early
    log: tuple[Progress, ...] = field(repr=False)  # its lines


@dataclass(frozen=True)
class TrainingWatch:
    """What the caller sees and steers of a training."""

    on_progress: Callable[[Progress], None] = lambda _: None  # called every `every` steps
    should_stop: Callable[[], bool] = lambda: False  # asked after each step; with several processes every `every`
    every: int = 20  # steps
    # called with the step and the whole state every `save_every` steps, and when stopped
    save: Callable[[int, dict[str, Any]], None] = lambda *_: None
    save_every: int = 200  # steps


@dataclass
class _Window:
    """What happened since the last line of the log."""

    losses: list[Tensor] = field(default_factory=list)  # of each step, on the device
    began: float = 0.0  # seconds of `perf_counter`
    waited: float = 0.0  # seconds spent waiting for images

    def state(self) -> dict[str, Any]:
        return {
            "losses": [float(loss) for loss in self.losses],
            "elapsed": time.perf_counter() - self.began,
            "waited": self.waited,
        }


class Trainer:
    """One run over one feed: `model` is trained in place, `teacher` (prepared) is distilled from if there is one."""

    def __init__(self, model: nn.Module, feed: Feed, teacher: nn.Module | None = None) -> None:
        self.recipe, self.feed, self.world = feed.recipe, feed, feed.world
        self.model, self.teacher = model, teacher
        optimisation = self.recipe.optimisation
        self.steps_per_epoch = feed.batches_per_epoch // optimisation.accumulation
        self.steps = max(1, round(self.recipe.schedule.epochs * self.steps_per_epoch))
        self.step, self.seconds, self.log = 0, 0.0, list[Progress]()  # seconds: up to the last line of the log
        self._window = _Window(began=time.perf_counter())
        self._stepper = Stepper(model, optimisation, self.world.device)
        self._mix = BatchMix(self.recipe, feed.data.num_classes, self.world.device)
        self._called = self.world.replicate(model)
        self._peak = self.recipe.peak_lr(self.world.size)
        self.ema = _average(model, self.recipe.ema_decay)
        self._torn = False  # whether the weights may be between those of two steps

    @property
    def weights(self) -> nn.Module:
        """The model to evaluate and ship: the average where one is kept."""
        return self.model if self.ema is None else self.ema.module

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on; tensors and plain values only."""
        return {
            "recipe": repr(self.recipe),
            "processes": self.world.size,
            "step": self.step,
            "seconds": self.seconds,
            "log": [asdict(line) for line in self.log],
            "window": self._window.state(),
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            **self._stepper.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a stored state. Raises `CheckpointError` if it belongs to another recipe or number of processes."""
        for name, own in (("recipe", repr(self.recipe)), ("processes", self.world.size)):
            if state.get(name) != own:
                raise CheckpointError(
                    f"the stored state was made with another {'recipe' if name == 'recipe' else 'number of processes'} "
                    f"({_difference(str(state.get(name)), str(own))}); give the same again, or take another --out"
                )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self._stepper.load(state)
        self.step, self.seconds = state["step"], state["seconds"]
        self.log = [Progress(**line) for line in state["log"]]
        window = state["window"]
        losses = [torch.tensor(loss, dtype=torch.float64, device=self.world.device) for loss in window["losses"]]
        self._window = _Window(losses, time.perf_counter() - window["elapsed"], window["waited"])

    def run(self, watch: TrainingWatch) -> TrainingEnd:
        """Train to the end, or until stopped. Raises `MeasurementError` when the loss is not finite.

        A step that is interrupted is left out, and the state before it is saved; where that is not to be had any more, or
        not to be had from all processes, `KeyboardInterrupt` goes on to the caller.
        """
        self._called.train()
        if self.step == 0:
            self._window = _Window(began=time.perf_counter())
        try:
            stopped = self._steps(watch)
        except KeyboardInterrupt:
            if self._torn or self.world.size > 1:
                raise
            stopped = True
        interrupted = stopped and self.step < self.steps
        if interrupted:
            self.save(watch)
        self.model.eval()
        images = self.step * self.recipe.samples_per_step(self.world.size)
        return TrainingEnd(self.step, images, self.seconds, interrupted, tuple(self.log))

    def _steps(self, watch: TrainingWatch) -> bool:
        """The steps that are left; returns whether it was asked to stop."""
        saved, stopped = self.step, False
        while self.step < self.steps and not stopped:
            for loss, waited in self._epoch(self.step // self.steps_per_epoch):
                self._window.losses.append(loss)
                self._window.waited += waited
                self.step += 1
                self._torn = False
                noted = self.step % watch.every == 0 or self.step == self.steps
                if noted:
                    self._note(watch)
                if noted or self.world.size == 1:
                    stopped = self.world.any(watch.should_stop())
                if self.step == self.steps or stopped:
                    break
                if self.step - saved >= watch.save_every:
                    self.save(watch)
                    saved = self.step
        return stopped

    def save(self, watch: TrainingWatch) -> None:
        """Hand out the state. The time that takes is no training time."""
        began = time.perf_counter()
        self._window.losses = [self.world.average(loss) for loss in self._window.losses]  # the leader's alone are not all
        if self.world.leads:
            watch.save(self.step, self.state())
        self.world.wait()
        self._window.began += time.perf_counter() - began

    def _note(self, watch: TrainingWatch) -> None:
        """Close the window with a line in the log."""
        window, now = self._window, time.perf_counter()
        loss = float(self.world.average(torch.stack([loss.double() for loss in window.losses]).mean()))
        if not math.isfinite(loss):
            raise MeasurementError(f"the loss became {loss} by step {self.step}; lower the learning rate")
        elapsed = now - window.began
        self.seconds += elapsed
        line = Progress(
            step=self.step,
            steps=self.steps,
            epoch=self.step / self.steps_per_epoch,
            loss=loss,
            lr=self._rate(self.step - 1),
            images_per_second=len(window.losses) * self.recipe.samples_per_step(self.world.size) / elapsed,
            seconds=self.seconds,
            data_wait=min(1.0, window.waited / elapsed),
        )
        self.log.append(line)
        self._window = _Window(began=now)
        if self.world.leads:
            watch.on_progress(line)

    def _rate(self, step: int) -> float:
        return learning_rate(self.recipe.schedule, self._peak, step, self.steps, self.steps_per_epoch)

    def _epoch(self, epoch: int) -> Iterator[tuple[Tensor, float]]:
        """Optimizer steps of an epoch from the current one on: (mean loss, seconds waited for data)."""
        accumulation = self.recipe.optimisation.accumulation
        first = (self.step % self.steps_per_epoch) * accumulation
        batches = self.feed.batches(epoch, first)
        for step in range(first // accumulation, self.steps_per_epoch):
            self._stepper.set_rate(self._rate(epoch * self.steps_per_epoch + step))
            losses, waited = [], 0.0
            self._torn = self.recipe.optimisation.upstream_accumulation  # which steps after every micro-batch
            for number in range(accumulation):
                self._seed(epoch, step * accumulation + number)
                began = time.perf_counter()
                images, labels = next(batches)
                waited += time.perf_counter() - began
                losses.append(self._micro_batch(*self._mix(images, labels), number))
            self._torn = True
            self._stepper.step()
            if self.ema is not None:
                self.ema.update(self.model)
            yield torch.stack(losses).mean(), waited

    def _seed(self, epoch: int, batch: int) -> None:
        """Drop path and mixing depend on the place in the run and the rank alone, so a resumed run repeats them."""
        seed = int(np.random.SeedSequence([self.recipe.seed, epoch, batch, self.world.rank]).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    def _micro_batch(self, images: Tensor, targets: Tensor, number: int) -> Tensor:
        recipe = self.recipe
        last = number == recipe.optimisation.accumulation - 1
        waits = isinstance(self._called, DistributedDataParallel) and not last
        local = waits and not recipe.optimisation.upstream_accumulation  # upstream steps, so it exchanges, every time
        precision = AUTOCAST[recipe.optimisation.precision]
        with self._called.no_sync() if local else contextlib.nullcontext():  # type: ignore[operator]
            with torch.autocast(images.device.type, dtype=precision, enabled=precision is not None):
                logits = self._called(images)
                told = teacher_logits(self.teacher, images)
            loss = training_loss(logits, targets, recipe.augmentation.label_smoothing, told, recipe.teacher.weight)
            self._stepper.backward(loss, number)
        return loss.detach()


def _average(model: nn.Module, decay: float | None) -> Any:
    """timm's exponential moving average, starting from the weights as they are."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def _difference(stored: str, own: str) -> str:
    """The first words in which two printed recipes differ."""
    for before, now in zip(stored.split(", "), own.split(", "), strict=False):
        if before != now:
            return f"{before.split('(')[-1]} then, {now.split('(')[-1]} now"
    return f"{stored[:40]} then"


@torch.inference_mode()
def top1(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    world: World | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Percent of images right at the first guess, over (images, labels); processes that share them out add up. None if any
    of them was asked to stop."""
    counts = torch.zeros(3, dtype=torch.int64)  # right, seen, asked to stop
    for images, labels in batches:
        if should_stop():
            counts[2] = 1
            break
        counts[0] += int((model(images).argmax(-1).cpu() == labels).sum())
        counts[1] += len(labels)
    right, seen, stopped = (counts if world is None else world.total(counts)).tolist()
    return None if stopped else 100 * right / seen
