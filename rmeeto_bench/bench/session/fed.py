"""The whole pipeline: images/s from encoded images to logits, read, decoded, moved and classified side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from rmeeto_bench.bench.session.context import Desk, prepare

if TYPE_CHECKING:
    from rmeeto_bench.bench.session.built_arm import BuiltArm
    from rmeeto_bench.bench.session.workload import ModelWorkload
    from rmeeto_bench.data.image_set import Batch, ImageSet

PASSES = 3  # over the images, of every arm and of every part alone
SECONDS = 10.0  # of a pass; with more images than that it ends early
LEAST = 1.0  # second of a pass that reads nothing: a few batches of a small set would hardly be warm
DECODE, TRANSFER = "decode", "transfer"


def run_fed(desk: Desk) -> dict[str, Any]:
    """Time passes over the images: through each arm from the disk to logits, and each part alone, in random order."""
    import torch

    from rmeeto_bench.bench.session.workload import ModelWorkload

    desk.stage("the whole pipeline: building")
    workload = prepare(desk.plan, desk.device, desk.resolved, desk.job.workers)
    if not isinstance(workload, ModelWorkload):
        return {}
    desk.stage("the whole pipeline")
    order, found = np.random.default_rng(desk.plan.seed), dict[str, dict[str, float]]()
    with torch.inference_mode():
        for data, arms in workload.fed():
            parts = Parts(workload, data)
            if not parts.starts:
                less = f"{data.name} is less than a batch of {workload.batch_size}"
                desk.note(f"{less}: --fed times nothing; give more images, or another --batch-size")
                continue
            if not parts.full and any(arm.compiled for arm in arms):
                desk.note(f"--fed leaves out what is compiled; give a --batch-size that is a multiple of {data.views} views")
                arms = [arm for arm in arms if not arm.compiled]
            passes = parts.all_of(arms)
            timed: dict[str, list[float]] = {name: [] for name in passes}
            for _ in range(PASSES):
                for name in order.permutation(list(timed)):
                    if desk.should_stop():
                        return {"fed": found}
                    timed[str(name)].append(parts.rate(passes[str(name)]))
            best = {name: float(np.median(rates)) for name, rates in timed.items()}
            for arm in arms:
                name = arm.cell.name
                found[name] = {
                    "images_per_second": best[name],
                    DECODE: best[DECODE],
                    TRANSFER: best[TRANSFER],
                    "forward": best[_alone(name)],
                }
    return {"fed": found}


def _in_time(batches: Iterable[Batch]) -> Iterator[Batch]:
    """These batches, until a pass has taken its time."""
    end = time.monotonic() + SECONDS
    for batch in batches:
        yield batch
        if time.monotonic() >= end:
            return


def _alone(name: str) -> str:
    return f"{name} alone"


class Parts:
    """The pipeline on one set of images, and its parts."""

    def __init__(self, workload: ModelWorkload, data: ImageSet) -> None:
        from rmeeto_bench.bench.session.accuracy_pass import clips_at_once

        self._data, self._setting = data, workload.setting
        self._size = clips_at_once(workload.batch_size, data.views)
        self.starts = range(0, len(data) - self._size + 1, self._size)  # a rest would run through another program
        # Whether a batch fills the one that the arms are timed on; views of clips may not, and then nothing runs compiled.
        self.full = self._size * data.views == workload.batch_size
        self._kept = next(iter(data.batches(self._size)))

    def all_of(self, arms: list[BuiltArm]) -> dict[str, Callable[[], int]]:
        """Name -> one pass; each returns how many images it took."""
        passes: dict[str, Callable[[], int]] = {DECODE: self._decode, TRANSFER: self._transfer}
        for arm in arms:
            passes[arm.cell.name] = partial(self._whole, arm)
            passes[_alone(arm.cell.name)] = partial(self._forward, arm)
        return passes

    def rate(self, once: Callable[[], int]) -> float:
        """Images/s of one pass, by the clock, with everything on the device done."""
        images: list[int] = []
        _, wall = self._setting.device.time_block(lambda: images.append(once()), 1)
        return images[0] / wall

    def _move(self, batch: Batch) -> Any:
        images = batch.to(self._setting.device.torch_device).images.to(self._setting.dtype)
        return images.flatten(0, 1) if self._data.views > 1 else images

    def _batches(self) -> Iterator[Batch]:
        return _in_time(self._data.batches(self._size, self.starts))

    def _again(self) -> Iterator[Batch]:
        """As many batches as a pass has, and for a while, each the first one, which is in memory."""
        end = time.monotonic() + LEAST
        for count, batch in enumerate(_in_time(repeat(self._kept))):
            if count >= len(self.starts) and time.monotonic() >= end:
                return
            yield batch

    def _decode(self) -> int:
        return sum(len(batch.labels) for batch in self._batches())

    def _transfer(self) -> int:
        done = 0
        for batch in self._again():
            self._move(batch)
            done += len(batch.labels)
        return done

    def _forward(self, arm: BuiltArm) -> int:
        images, done = self._move(self._kept), 0
        for batch in self._again():
            self._classify(arm, images)
            done += len(batch.labels)
        return done

    def _classify(self, arm: BuiltArm, images: Any) -> None:
        (arm.forward if self.full else arm.eager)(images)

    def _whole(self, arm: BuiltArm) -> int:
        done = 0
        for batch in self._batches():
            self._classify(arm, self._move(batch))
            done += len(batch.labels)
        return done
