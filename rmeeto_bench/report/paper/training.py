"""What re-training gives and costs, from logs: Tables 3 (minutes on 8 to 32 H100) and 9 (epochs, accuracy and minutes), and
the re-trained rows of all others where no stored run has them."""

from __future__ import annotations

import math
from statistics import fmean

from rmeeto_bench.reference import PaperRow
from rmeeto_bench.report.paper.item import Item, Needs, Ours
from rmeeto_bench.report.paper.matching import our_model
from rmeeto_bench.report.paper.sources import STAND_IN, Sources
from rmeeto_bench.report.paper.trained import Training, accuracy, describe, find

TRAIN = "ImageNet-1k training and validation sets"
TABLE_3_EPOCHS = 3


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


def _paper_machine(training: Training) -> bool:
    """Four A100, as far as the paper says what it trained on."""
    return training.n_devices == 4 and "A100" in training.device


def _minutes(trainings: list[Training], *, comparable: bool) -> Ours:
    """Mean minutes of those that ran on the first one's machine."""
    first = trainings[0]
    alike = [training for training in trainings if (training.device, training.n_devices) == (first.device, first.n_devices)]
    match = f"{describe(alike)}; {first.n_devices} x {first.device}"
    return Ours(fmean(training.minutes for training in alike), match, comparable=comparable)


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
    Item(
        "3",
        "Minutes of re-training for 3 epochs",
        Needs("vim_tiny, vim_small, vim_base", TRAIN, "public baselines of Vim", "8, 16 and 32 H100"),
        retrained,
        "needs `retrain` for 3 epochs on 8 or more H100, and --trainings",
    ),
    Item(
        "9",
        "Accuracy and minutes by epochs of re-training",
        Needs("vim_small", TRAIN, "Vim-S re-trained at r = 11 for 1, 3, 5, 7 and 15 epochs", "4 A100 (not stated)"),
        retrained,
        "needs `retrain` of vim_small at r = 11 for these epochs, and --trainings",
    ),
)
