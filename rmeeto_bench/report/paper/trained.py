"""Our side of the paper's re-trained numbers: what the logs of `rmeeto-bench retrain` say, found by the setting of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.statistics import t_interval, wilson
from rmeeto_bench.records import Estimate
from rmeeto_bench.reduction.schedule import ReductionConfig, token_counts
from rmeeto_bench.reference import PaperRow
from rmeeto_bench.report.training import TrainingLog, read_logs

Rule = Callable[[ReductionConfig, str], ReductionConfig | None]
FOLDS = {"sum": "sum", "mean": "mean", "max": "amax", "min": "amin"}
GROUPINGS = {"odd-even": "odd_even", "front-behind": "front_behind", "random": "random"}


def _interval(base: ReductionConfig, value: str) -> ReductionConfig:
    """Blocks between merges; Table 16 keeps the tokens that are left at the end."""
    return base if value == "2" else replace(base, interval=int(value), final_tokens=token_counts(base)[-1])


# Setting of a row -> the reduction it was trained with, None where the paper does not say which.
RULES: dict[str, Rule] = {
    "": lambda base, _: base,
    "dataset": lambda base, _: base,
    "train_fraction": lambda base, _: base,
    "epochs": lambda base, _: base,
    "hardware": lambda base, _: base,
    "blocks": lambda base, value: replace(base, placement=value),
    "ordered": lambda base, value: replace(base, ordered=value == "yes") if value in ("yes", "no") else None,
    "feature_row": lambda base, value: base if value == "1" else None,
    "distance": lambda base, value: replace(base, distance=value),
    "kth_closest": lambda base, value: replace(base, choose_k=int(value)),
    "merge_interval": _interval,
    "merge_mode": lambda base, value: replace(base, mode=FOLDS[value]),
    "grouping": lambda base, value: replace(base, ablation=replace(base.ablation, grouping=GROUPINGS[value])),
    "shuffle_ratio": lambda base, value: replace(base, ablation=replace(base.ablation, shuffle=float(value))),
}
METHODS = {"merging": False, "R-MeeTo": False, "R-MeeTo (odd-block)": False, "R-MeeTo (re-train)": False, "pruning": True}


@dataclass(frozen=True)
class Training:
    """One finished training. `reduction`: its settings as plain values, r among them · `minutes` of training · `top1` in
    percent of `n_images` · `n_devices` processes on `device`, one GPU each."""

    model: str
    reduction: dict[str, Any]
    recipe: dict[str, Any]
    epochs: float
    top1: float
    n_images: int
    minutes: float
    device: str
    n_devices: int
    data: str

    @property
    def of_whole(self) -> float:
        """The part of the training images it saw."""
        return float(self.recipe.get("fraction", 1.0))

    @property
    def twins(self) -> str:
        """Equal for trainings that differ by their seed alone, or by the machine."""
        recipe = {name: value for name, value in self.recipe.items() if name != "seed"}
        return json.dumps([self.model, self.reduction, recipe, self.data, self.n_images], sort_keys=True)


def _training(log: TrainingLog) -> Training | None:
    head, tail = log.head, log.tail
    if tail.get("interrupted", False):
        return None
    default = json.loads(json.dumps(asdict(ReductionConfig())))
    return Training(
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


def load_trainings(folders: Sequence[Path]) -> tuple[Training, ...]:
    """The finished trainings whose logs lie in these folders, or in folders right below. Raises `DataError`."""
    found: list[Training] = []
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


def reduction_of(row: PaperRow) -> ReductionConfig | None:
    """What a row was trained with, or None where that is not known."""
    prune, rule = METHODS.get(row.method), RULES.get(row.setting_name)
    if prune is None or rule is None or not row.r.isdecimal() or (row.setting_name and not row.setting_value):
        return None
    base = ReductionConfig(r=int(row.r), prune=prune, placement="odd" if row.table in ("18", "19", "21") else "even")
    return rule(base, row.setting_value)


def _epochs(row: PaperRow) -> float | None:
    """Epochs a row was trained for, None where it does not say."""
    if row.setting_name == "epochs":
        return float(row.setting_value)
    said = row.regime.rpartition(" ")[2].removesuffix("ep")
    return float(said) if said.isdecimal() else None


def accuracy(trainings: Sequence[Training]) -> Estimate:
    """Mean top-1 of trainings that are twins. The interval joins images (Wilson) and seeds (Student's t) in quadrature."""
    over_seeds, images = t_interval([training.top1 for training in trainings]), trainings[0].n_images
    if not images:
        return over_seeds
    over_images = wilson(round(over_seeds.value / 100 * images), images)
    spread = 0.0 if over_seeds.high is None else over_seeds.high - over_seeds.value
    low, high = (math.hypot(spread, over_seeds.value - (bound or 0.0)) for bound in (over_images.low, over_images.high))
    return Estimate(over_seeds.value, over_seeds.value - low, over_seeds.value + high)


def find(row: PaperRow, model: str, trainings: Sequence[Training], *, any_length: bool) -> list[Training]:
    """The trainings of `model` that a row is about: of the largest group of twins. `any_length` lets in other epochs and
    other parts of the data, unless it is them that the row is about."""
    reduction = reduction_of(row)
    if reduction is None:
        return []
    wanted, epochs = json.loads(json.dumps(asdict(reduction))), _epochs(row)
    fraction = float(row.setting_value.rstrip("%")) / 100 if row.setting_name == "train_fraction" else 1.0
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        same = training.model == model and training.reduction == wanted
        as_long = epochs is None or math.isclose(training.epochs, epochs, rel_tol=0.02)
        as_much = math.isclose(training.of_whole, fraction, rel_tol=0.02)
        loose = {"epochs": as_long, "train_fraction": as_much}.get(row.setting_name, True)
        if same and (loose if any_length else as_long and as_much):
            groups.setdefault(training.twins, []).append(training)
    return max(groups.values(), key=len, default=[])


def describe(trainings: Sequence[Training]) -> str:
    """How the trainings compare with the paper's, in a few words."""
    first, seeds = trainings[0], len(trainings)
    part = "" if first.of_whole == 1 else f" of {100 * first.of_whole:.3g} %"
    count = f", {seeds} seeds" if seeds > 1 else ""
    return f"our re-training on {first.data}, {first.epochs:.3g} epoch(s){part}{count}"
