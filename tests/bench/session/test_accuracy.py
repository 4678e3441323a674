"""One pass: the same predictions to the bit as pass by pass, each image decoded once, however the work is divided."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import CLASSES, Made, render, write_folders
from torch import Tensor, nn

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.session.accuracy_pass import Pass, one_pass
from rmeeto_bench.bench.session.built_arm import BuiltArm, Setting
from rmeeto_bench.bench.session.progress import PassProgress
from rmeeto_bench.bench.store.predictions import Predictions, Results
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.find import find_data
from rmeeto_bench.data.image_set import ImageSet
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.data.preprocessing import Preprocessing
from rmeeto_bench.data.reading import EncodedSet, Reading
from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig

SIZES = VimConfig(img_size=32, patch_size=4, num_classes=CLASSES, embed_dim=16, depth=6, d_state=4, drop_path_rate=0.0)
RS = (0, 2, 4, 6, 8, 12)
SETTING = Setting(CpuDevice(), "fp32", 16, "auto")


def arm(r: int) -> BuiltArm:
    torch.manual_seed(0)
    model = Vim(SIZES, ReductionConfig(r=r), "auto").eval()
    with torch.no_grad():
        model.head.weight.mul_(40)  # random weights hardly tell images apart
    return BuiltArm(Cell("small", ReductionConfig(r=r), 0.0, 0.0), model, "random", None, model)


@pytest.fixture(scope="module")
def arms() -> list[BuiltArm]:
    return [arm(r) for r in RS]


@pytest.fixture(scope="module")
def few() -> Made:
    return render(per_class=3)


@pytest.fixture(scope="module")
def folder(few: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(few, tmp_path_factory.mktemp("made") / "val")


def read(folder: Path, workers: int = 0, on_error: str = "stop") -> EncodedSet:
    data = find_data(folder, shape=(3, 32, 32), num_classes=CLASSES, images=None, reading=Reading(on_error, workers))
    assert isinstance(data, EncodedSet)
    return data


def stopping_after(batches: int) -> Callable[[], bool]:
    left = batches

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return stop


def same(one: Results, other: Results) -> None:
    assert np.array_equal(one.labels, other.labels)
    for name in one.best:
        assert np.array_equal(one.best[name], other.best[name]), name
        assert np.array_equal(one.confidence[name].view(np.uint16), other.confidence[name].view(np.uint16)), name


@pytest.fixture(scope="module")
def whole(arms: list[BuiltArm], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    with Store.create(tmp_path_factory.mktemp("whole")) as store:
        return one_pass(arms, read(folder), Pass(SETTING, store))


def test_six_ratios_in_one_pass_are_six_passes_to_the_bit(
    arms: list[BuiltArm], folder: Path, whole: Results, tmp_path: Path
) -> None:
    assert len(whole.labels) == 60
    assert len({whole.best[name].tobytes() for name in whole.best}) == len(RS)  # or the comparison would say nothing
    for one in arms:
        with Store.create(tmp_path / one.cell.name.replace("/", "-")) as store:
            alone = one_pass([one], read(folder), Pass(SETTING, store))
        name = one.cell.name
        assert np.array_equal(alone.best[name], whole.best[name])
        assert np.array_equal(alone.confidence[name].view(np.uint16), whole.confidence[name].view(np.uint16))
        assert np.array_equal(alone.labels, whole.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_decoded_once_for_all_ratios(
    workers: int, arms: list[BuiltArm], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = os.open(tmp_path / "decoded", os.O_CREAT | os.O_APPEND | os.O_WRONLY)  # shared with forked workers
    original = Preprocessing.read

    def counting(self: Preprocessing, data: bytes) -> tuple[Tensor, str | None]:
        os.write(log, b".")
        return original(self, data)

    monkeypatch.setattr(Preprocessing, "read", counting)
    with Store.create(tmp_path / "run") as store:
        one_pass(arms, read(folder, workers), Pass(SETTING, store))
    os.close(log)
    assert (tmp_path / "decoded").stat().st_size == 60


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_cover_every_image_once_with_equal_predictions(
    shards: int, arms: list[BuiltArm], folder: Path, whole: Results, tmp_path: Path
) -> None:
    seen = []
    with Store.create(tmp_path) as store:
        for shard in range(shards):
            totals: list[PassProgress] = []
            job = Pass(SETTING, store, on_progress=totals.append, shard=(shard, shards), owner="shared")
            joined = one_pass(arms, read(folder), job)
            seen += [progress.done for progress in totals[-1:]]
        assert sum(seen) == 60  # none twice, none padded
        same(joined, whole)


def test_an_interrupted_pass_continues_after_the_last_stored_image(
    arms: list[BuiltArm], folder: Path, whole: Results, tmp_path: Path
) -> None:
    with Store.create(tmp_path) as store:
        part = one_pass(arms, read(folder), Pass(SETTING, store, should_stop=stopping_after(2)))
        assert len(part.labels) == 32
        assert np.array_equal(part.labels, whole.labels[:32])
    progress: list[PassProgress] = []
    with Store.open(tmp_path) as store:
        same(one_pass(arms, read(folder), Pass(SETTING, store, on_progress=progress.append)), whole)
        assert [p.done for p in progress] == [48, 60]
        assert all(p.earlier == 32 for p in progress)
        for name in whole.best:
            assert progress[-1].correct[name] == int(whole.correct(name).sum())
        again: list[PassProgress] = []
        same(one_pass(arms, read(folder), Pass(SETTING, store, on_progress=again.append)), whole)
        assert not again  # nothing was left to do


def test_another_ratio_joins_a_finished_pass(arms: list[BuiltArm], folder: Path, whole: Results, tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        one_pass(arms[:2], read(folder), Pass(SETTING, store))
        same(one_pass(arms, read(folder), Pass(SETTING, store)), whole)
        rows = store._connection.execute("SELECT arm, sum(count) FROM prediction GROUP BY arm").fetchall()
    assert dict(rows) == {one.cell.name: 60 for one in arms}


def test_predictions_of_other_data_or_settings_are_never_joined(
    arms: list[BuiltArm], folder: Path, few: Made, tmp_path: Path
) -> None:
    other = write_folders(replace(few, items=few.items[:-1]), tmp_path / "other")
    with Store.create(tmp_path / "run") as store:
        one_pass(arms[:1], read(folder), Pass(SETTING, store, should_stop=stopping_after(1)))
        with pytest.raises(DataError, match="another data set"):
            one_pass(arms[:1], read(other), Pass(SETTING, store))
        with pytest.raises(DataError, match="batch_size"):
            one_pass(arms[:1], read(folder), Pass(replace(SETTING, batch_size=8), store))


def test_an_unreadable_image_changes_no_other_prediction(
    arms: list[BuiltArm], few: Made, whole: Results, tmp_path: Path
) -> None:
    folder = write_folders(few, tmp_path / "val")
    for index in (20, 21, 59):
        name, file, data = few.items[index]
        (folder / name / file).write_bytes(data[:200])
    with Store.create(tmp_path / "run") as store:
        data = read(folder, on_error="skip")
        for stop in (stopping_after(2), lambda: False):  # interrupted once: problems are not counted twice either
            results = one_pass(arms, data, Pass(SETTING, store, should_stop=stop))
        problems = Predictions(store, "cpu").problems(data.fingerprint)
        kept = np.delete(np.arange(60), [20, 21, 59])
        assert np.array_equal(results.labels, whole.labels[kept])
        for name in whole.best:
            assert np.array_equal(results.best[name], whole.best[name][kept])
            assert len(Predictions(store, "cpu").results([name]).labels) == 57
        assert [(place, left_out) for place, _, _, left_out in problems] == [(20, True), (21, True), (59, True)]
    with Store.create(tmp_path / "stopping") as store, pytest.raises(DataError, match=few.items[20][1]):
        one_pass(arms, read(folder), Pass(SETTING, store))


def test_data_that_changes_during_the_pass_is_said(arms: list[BuiltArm], few: Made, tmp_path: Path) -> None:
    folder = write_folders(few, tmp_path / "val")
    notes: list[str] = []

    def add_a_file(progress: PassProgress) -> None:
        (folder / few.classes[0] / f"new{progress.done}.JPEG").write_bytes(few.items[0][2])

    with Store.create(tmp_path / "run") as store:
        results = one_pass(arms[:1], read(folder), Pass(SETTING, store, add_a_file, notes.append))
    assert len(results.labels) == 60
    assert len([note for note in notes if "while it was read" in note]) == 1
    assert "were added to or removed from" in notes[-1]


class Oracle(nn.Module):
    """Is sure of a class that it reads off the first pixel."""

    def __init__(self, answers: Tensor, logit: float = 4.0) -> None:
        super().__init__()
        self.answers, self.logit = answers, logit

    def forward(self, images: Tensor) -> Tensor:
        place = (images[:, 0, 0, 0] * 0.3530 + 0.2860).mul(255).round().long()
        return self.logit * torch.nn.functional.one_hot(self.answers[place], 10).float()


def _coded(labels: Tensor) -> ImageSet:
    """Ten classes whose first pixel is the true class."""
    base = fashion_mnist.load("test").subset(800)
    pixels = base.pixels.clone()
    pixels[:, 0, 0, 0] = base.labels.to(torch.uint8)
    return replace(base, pixels=pixels, labels=labels if len(labels) == 800 else base.labels)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("right", None),
        ("permuted", "agree up to their numbering"),
        ("shuffled", "do not belong together"),
        ("one label", "all images have the label 0"),
        ("untrained", None),
    ],
)
def test_a_wrong_label_map_is_noticed(kind: str, says: str | None, tmp_path: Path) -> None:
    own = fashion_mnist.load("test").subset(800).labels
    labels = own
    if kind == "permuted":
        labels = (own + 3) % 10
    if kind == "shuffled":
        labels = own[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    if kind == "one label":
        labels = torch.zeros_like(own)
    answers = torch.arange(10)
    model = Oracle(answers if kind != "untrained" else (answers + 1) % 10, 4.0 if kind != "untrained" else 0.1)
    fake = BuiltArm(Cell("oracle", ReductionConfig(), 0.0, 0.0), model, "random", None, model)  # type: ignore[arg-type]
    notes: list[str] = []
    with Store.create(tmp_path) as store:
        one_pass([fake], _coded(labels), Pass(SETTING, store, on_note=notes.append))
    assert len(notes) == (says is not None)
    if says is not None:
        assert says in notes[0]
