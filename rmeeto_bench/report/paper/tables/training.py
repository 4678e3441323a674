"""What re-training gives and costs, from logs: Tables 3 (minutes on 8 to 32 H100) and 9 (epochs, accuracy and minutes), and
the re-trained rows of all others where no stored run has them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import fmean

from rmeeto_bench.published import PaperRow
from rmeeto_bench.reduction.schedule import ReductionConfig, token_counts
from rmeeto_bench.report.paper.item import Needs, Ours, PaperItem
from rmeeto_bench.report.paper.matching import our_model, placement
from rmeeto_bench.report.paper.read_ablations import FOLDS
from rmeeto_bench.report.paper.read_trainings import StoredTraining, accuracy, describe
from rmeeto_bench.report.paper.sources import STAND_IN, Sources

TRAIN = "ImageNet-1k training and validation sets"
TABLE_3_EPOCHS = 3
Rule = Callable[[ReductionConfig, str], ReductionConfig | None]
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


def reduction_of(row: PaperRow) -> ReductionConfig | None:
    """The reduction that a row was trained with, or None if it is not known."""
    prune, rule = METHODS.get(row.method), RULES.get(row.setting_name)
    if prune is None or rule is None or not row.r.isdecimal() or (row.setting_name and not row.setting_value):
        return None
    base = ReductionConfig(r=int(row.r), prune=prune, placement=placement(row))
    return rule(base, row.setting_value)


def _epochs(row: PaperRow) -> float | None:
    """Epochs that a row was trained for, or None if it does not say."""
    if row.setting_name == "epochs":
        return float(row.setting_value)
    said = row.regime.rpartition(" ")[2].removesuffix("ep")
    return float(said) if said.isdecimal() else None


def find(row: PaperRow, model: str, trainings: Sequence[StoredTraining], *, any_length: bool) -> list[StoredTraining]:
    """The trainings of `model` that a row is about: of the largest group of twins. `any_length` lets in other epochs and
    other parts of the data, unless it is them that the row is about."""
    reduction = reduction_of(row)
    if reduction is None:
        return []
    wanted, epochs = json.loads(json.dumps(asdict(reduction))), _epochs(row)
    fraction = float(row.setting_value.rstrip("%")) / 100 if row.setting_name == "train_fraction" else 1.0
    groups: dict[str, list[StoredTraining]] = {}
    for training in trainings:
        same = training.model == model and training.reduction == wanted
        as_long = epochs is None or math.isclose(training.epochs, epochs, rel_tol=0.02)
        as_much = math.isclose(training.of_whole, fraction, rel_tol=0.02)
        loose = {"epochs": as_long, "train_fraction": as_much}.get(row.setting_name, True)
        if same and (loose if any_length else as_long and as_much):
            groups.setdefault(training.twins, []).append(training)
    return max(groups.values(), key=len, default=[])


def retrained(row: PaperRow, sources: Sources) -> Ours | None:
    """Of the trainings of a row's model with its setting, or of the bundled model's in a Vim's place."""
    model = our_model(row)
    if model is None or not row.regime.startswith("re-trained") or row.metric not in ("top1", "wall_time"):
        return None
    if row.setting_name == "hardware":
        return _on_hardware(row, model, sources)
    own = find(row, model, sources.trained, any_length=False)
    if row.metric == "wall_time":
        return _minutes(own, comparable=_paper_machine(own[0])) if own else None
    trainings = own
    if not own and model.startswith("vim_"):
        trainings = find(row, STAND_IN, sources.trained, any_length=True)
    if not trainings:
        return None
    value, stand_in = accuracy(trainings), "" if own else f"stand-in {STAND_IN} for {row.model}; "
    return Ours(value.value, stand_in + describe(trainings), value.low, value.high, comparable=bool(own))


def _paper_machine(training: StoredTraining) -> bool:
    """Whether it ran on the paper's machine: four A100, as far as the paper says."""
    return training.n_devices == 4 and "A100" in training.device


def _minutes(trainings: list[StoredTraining], *, comparable: bool) -> Ours:
    """Mean minutes of the trainings that ran on the same machine as the first."""
    first = trainings[0]
    same = [training for training in trainings if (training.device, training.n_devices) == (first.device, first.n_devices)]
    match = f"{describe(same)}; {first.n_devices} x {first.device}"
    return Ours(fmean(training.minutes for training in same), match, comparable=comparable)


def _on_hardware(row: PaperRow, model: str, sources: Sources) -> Ours | None:
    """Minutes on a number of GPUs, as in `2x8xH100 InfiniBand`; the paper doesn't say at which r."""
    machines, gpus, kind = row.setting_value.split(" ")[0].split("x")
    fitting = [
        training
        for training in sources.trained
        if training.model == model
        and training.n_devices == int(machines) * int(gpus)
        and kind in training.device
        and training.reduction["r"] > 0
        and training.of_whole == 1
        and math.isclose(training.epochs, TABLE_3_EPOCHS, rel_tol=0.02)
    ]
    twins = [training for training in fitting if training.twins == fitting[0].twins]
    if not twins:
        return None
    ours = _minutes(twins, comparable=True)
    return Ours(ours.value, f"{ours.match}, r = {twins[0].reduction['r']}")


ITEMS = (
    PaperItem(
        "3",
        "Minutes of re-training for 3 epochs",
        Needs("vim_tiny, vim_small, vim_base", TRAIN, "public baselines of Vim", "8, 16 and 32 H100"),
        retrained,
        "needs `retrain` for 3 epochs on 8 or more H100, and --trainings",
    ),
    PaperItem(
        "9",
        "Accuracy and minutes by epochs of re-training",
        Needs("vim_small", TRAIN, "Vim-S re-trained at r = 11 for 1, 3, 5, 7 and 15 epochs", "4 A100 (not stated)"),
        retrained,
        "needs `retrain` of vim_small at r = 11 for these epochs, and --trainings",
    ),
)
