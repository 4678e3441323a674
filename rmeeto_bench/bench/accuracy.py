"""Accuracy of all arms in one pass over the data: each image is read once and goes through every model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from rmeeto_bench.bench.arms import BuiltArm, Setting
from rmeeto_bench.bench.store import Store
from rmeeto_bench.data.image_set import ImageSet

BEST = 5


@torch.inference_mode()
def evaluate(
    arms: list[BuiltArm],
    data: ImageSet,
    setting: Setting,
    store: Store,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> NDArray[np.int64]:
    """Run every image through every arm in the timed precision and batch size (the last, shorter batch eagerly).

    Predictions go to the store as they come.

    Returns the labels of the images done, in order (all of them unless stopped).
    """
    labels: list[NDArray[np.int64]] = []
    done = 0
    for batch in data.batches(setting.batch_size):
        images = setting.place(batch.images)
        for arm in arms:
            logits = (arm.forward if len(images) == setting.batch_size else arm.model)(images).float()
            best = logits.topk(min(BEST, logits.shape[1])).indices.cpu().numpy()
            top5 = np.full((len(best), BEST), -1, np.int16)
            top5[:, : best.shape[1]] = best
            store.add_predictions(setting.device.id, arm.cell.name, batch.start, top5)
        labels.append(batch.labels.numpy())
        done += len(batch.labels)
        on_progress(done, len(data))
        if should_stop():
            break
    return np.concatenate(labels) if labels else np.empty(0, np.int64)
