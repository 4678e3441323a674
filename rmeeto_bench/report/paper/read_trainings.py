"""Read finished trainings from the logs of `rmeeto-bench retrain`. `training` finds the rows of the paper they belong to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.statistics import t_interval, wilson
from rmeeto_bench.records.run import Estimate
from rmeeto_bench.reduction.schedule import ReductionConfig
from rmeeto_bench.report.training import TrainingLog, read_logs


@dataclass(frozen=True)
class StoredTraining:
    """One finished training."""

    model: str  # name of the model
    reduction: dict[str, Any]  # its settings as plain values, r among them
    recipe: dict[str, Any]  # its settings as plain values
    epochs: float  # of the training
    top1: float  # percent
    n_images: int  # images behind top1; 0: not known
    minutes: float  # of training
    device: str  # name of the device
    n_devices: int  # processes, one device each
    data: str  # name of the training data

    @property
    def of_whole(self) -> float:
        """The share of the training images that it used."""
        return float(self.recipe.get("fraction", 1.0))

    @property
    def twins(self) -> str:
        """A key that is equal for trainings that differ only by seed or machine."""
        recipe = {name: value for name, value in self.recipe.items() if name != "seed"}
        return json.dumps([self.model, self.reduction, recipe, self.data, self.n_images], sort_keys=True)


def _training(log: TrainingLog) -> StoredTraining | None:
    head, tail = log.head, log.tail
    if tail.get("interrupted", False):
        return None
    default = json.loads(json.dumps(asdict(ReductionConfig())))
    return StoredTraining(
        model=str(head["model"]),
        reduction={**default, **head.get("reduction", {"r": head.get("r", 0)})},
        recipe=dict(head["recipe"]),
        epochs=log.epochs,
        top1=float(tail["top1"]),
        n_images=int(tail.get("n_images", 0)),
        minutes=float(tail["seconds"]) / 60,
        device=str(head.get("device", "cpu")),
        n_devices=int(head.get("processes", 1)),
        data=str(head.get("data", "unnamed data")),
    )


def load_trainings(folders: Sequence[Path]) -> tuple[StoredTraining, ...]:
    """The finished trainings whose logs lie in these folders, or in folders right below. Raises `DataError`."""
    found: list[StoredTraining] = []
    for folder in folders:
        below = [path for path in sorted(folder.glob("*")) if path.is_dir()] if folder.is_dir() else []
        try:
            logs = [log for place in (folder, *below) for log in read_logs(place)]
            if not logs:
                raise DataError(f"{folder} holds no .jsonl of `rmeeto-bench retrain`")
            found += [training for log in logs if (training := _training(log)) is not None]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"a log in {folder} is none of `rmeeto-bench retrain` ({type(error).__name__}: {error})") from error
    return tuple(found)


def accuracy(trainings: Sequence[StoredTraining]) -> Estimate:
    """Mean top-1 of trainings that are twins. The interval joins images (Wilson) and seeds (Student's t) in quadrature."""
    over_seeds, images = t_interval([training.top1 for training in trainings]), trainings[0].n_images
    if not images:
        return over_seeds
    over_images = wilson(round(over_seeds.value / 100 * images), images)
    spread = 0.0 if over_seeds.high is None else over_seeds.high - over_seeds.value
    low, high = (math.hypot(spread, over_seeds.value - (bound or 0.0)) for bound in (over_images.low, over_images.high))
    return Estimate(over_seeds.value, over_seeds.value - low, over_seeds.value + high)


def describe(trainings: Sequence[StoredTraining]) -> str:
    """How the trainings compare with the paper's, in a few words."""
    first, seeds = trainings[0], len(trainings)
    part = "" if first.of_whole == 1 else f" of {100 * first.of_whole:.3g} %"
    count = f", {seeds} seeds" if seeds > 1 else ""
    return f"our re-training on {first.data}, {first.epochs:.3g} epoch(s){part}{count}"
