"""Accuracy of all arms in one pass over the data: each image is read once and goes through every model.

A pass is cut into batches by the data set's order alone. Shards and resumed passes take whole batches of that cut, so
that every image meets the same neighbours however the work is divided, and its prediction is the same to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting
from rmeeto_bench.bench.session.label_check import CHECKED_AFTER, suspicion
from rmeeto_bench.bench.session.progress import PassProgress
from rmeeto_bench.bench.store.predictions import BEST, Chunk, Predictions, Results
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.checkpoints.trained import in_words
from rmeeto_bench.data.image_set import UNREADABLE, Batch, ImageSet


@dataclass(frozen=True)
class Pass:
    """What a pass needs besides arms and data."""

    setting: Setting  # device, precision and batch size
    store: Store  # where predictions go
    on_progress: Callable[[PassProgress], None] = lambda _: None  # told after each batch
    on_note: Callable[[str], None] = lambda _: None  # told what the user should know
    should_stop: Callable[[], bool] = lambda: False  # asked after each batch
    shard: tuple[int, int] = (0, 1)  # (i, n): take every n-th batch from the i-th on
    owner: str | None = None  # id of the device whose pass it is, where several share one; None: the device of `setting`


@dataclass
class _Tally:
    """Running sums of a pass."""

    total: int  # images of this share
    names: list[str]  # of the arms
    done: int = 0  # images
    earlier: int = 0  # images of an interrupted pass before this one
    read: int = 0  # images done that could be read
    correct: dict[str, int] = field(default_factory=dict)  # arm -> images that it got right
    began: float = field(default_factory=time.perf_counter)  # seconds on the process's clock

    def resume(self, images: int, results: Results) -> None:
        self.done = self.earlier = images
        self.read = len(results.labels)
        self.correct = {name: int(results.correct(name).sum()) for name in self.names}

    def add(self, chunk: Chunk) -> None:
        self.done += len(chunk.labels)
        self.read += int((chunk.labels != UNREADABLE).sum())
        for name in self.names:
            hits = (chunk.best[name][:, 0] == chunk.labels) & (chunk.labels != UNREADABLE)
            self.correct[name] = self.correct.get(name, 0) + int(hits.sum())

    def progress(self) -> PassProgress:
        seconds = time.perf_counter() - self.began
        return PassProgress(self.done, self.total, self.earlier, self.read, dict(self.correct), seconds)


def _settings(arm: BuiltArm, setting: Setting) -> dict[str, Any]:
    """What must be the same for predictions to be joined."""
    sha = arm.provenance.sha256[:16] if arm.provenance is not None else "random"
    averaged = arm.provenance is not None and arm.provenance.averaged
    return {
        "batch_size": setting.batch_size,
        "precision": setting.precision,
        "checkpoint": sha + (" (averaged weights)" if averaged else ""),
        "reduction": in_words(arm.cell.reduction),
    }


def _scores(arm: BuiltArm, images: Tensor, views: int, batch_size: int) -> Tensor:
    """Class probabilities fp32 [B, classes]; those of several views are averaged (spec 5.3)."""
    if views > 1:
        images = images.flatten(0, 1)
    forward = arm.forward if len(images) == batch_size else arm.eager
    probabilities = forward(images).float().softmax(-1)
    return probabilities.unflatten(0, (-1, views)).mean(1) if views > 1 else probabilities


def through_all_arms(batch: Batch, arms: list[BuiltArm], setting: Setting, views: int) -> Chunk:
    """One batch through every arm; the results come back from the device in one go."""
    images = batch.to(setting.device.torch_device).images.to(setting.dtype)
    scores = [_scores(arm, images, views, setting.batch_size) for arm in arms]
    count = min(BEST, scores[0].shape[1])
    found = [probabilities.topk(count) for probabilities in scores]
    classes = torch.stack([best.indices for best in found]).cpu().numpy()  # [A, B, count]
    sure = torch.stack([best.values[:, 0] for best in found]).cpu().numpy().astype(np.float16)  # [A, B]
    labels = batch.labels.numpy()
    best = np.full((len(arms), len(labels), BEST), -1, np.int16)
    best[:, :, :count] = classes
    best[:, labels == UNREADABLE] = -1
    names = [arm.cell.name for arm in arms]
    return Chunk(batch.start, labels, dict(zip(names, best)), dict(zip(names, sure)), batch.problems, batch.digests)


def clips_at_once(batch_size: int, views: int) -> int:
    """How many items of so many views go through a model together: the views of an item are never parted."""
    return max(1, batch_size // views)


@torch.inference_mode()
def one_pass(arms: list[BuiltArm], data: ImageSet, job: Pass) -> Results:
    """Run every image of the shard through every arm, in the timed precision and batch size, or what is left to do of it.

    Each batch is in the store before the next begins. Returns everything the store has of these arms, other shards'
    included. Raises `DataError` for a data set or settings other than those of the predictions that are there, and for
    an unreadable image where the data set is to stop at such.
    """
    first = job.shard[0] == 0  # speaks for all
    for note in data.notes if first else ():
        job.on_note(note)
    names = [arm.cell.name for arm in arms]
    kept = Predictions(job.store, job.owner or job.setting.device.id)
    kept.begin(data, {arm.cell.name: _settings(arm, job.setting) for arm in arms})
    size = clips_at_once(job.setting.batch_size, data.views)
    starts = range(0, len(data), size)[job.shard[0] :: job.shard[1]]
    done = kept.done(names)
    todo = [start for start in starts if start not in done]
    images = {start: min(size, len(data) - start) for start in starts}
    tally = _Tally(sum(images.values()), names)
    if len(todo) < len(starts):
        earlier = [start for start in starts if start in done]
        tally.resume(sum(images[start] for start in earlier), kept.results(names, earlier))
    warned = not first
    for batch in data.batches(size, todo) if todo else ():
        chunk = through_all_arms(batch, arms, job.setting, data.views)
        kept.add(data, chunk)
        tally.add(chunk)
        job.on_progress(tally.progress())
        if not warned and tally.read >= CHECKED_AFTER and tally.done < tally.total:
            warned = True
            hint = suspicion(kept.results(names[:1]), names[0], data.num_classes)
            if hint is not None:
                job.on_note(hint)
        if job.should_stop():
            break
    change = data.changed()
    if first and change is not None:
        job.on_note(f"{change}: the accuracy is of the images as they were listed")
    return kept.results(names)
