"""`eval` from plan to record: real processes that share the images, layouts on disk, interruption, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_images import Made, write_folders, write_parquet, write_tars
from PIL import Image

from rmeeto_bench.bench.evaluate.evaluation import Evaluation, evaluate_plan, groups
from rmeeto_bench.bench.evaluate.sharing import SharedPass, share
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.resolve import resolve
from rmeeto_bench.bench.session.accuracy_pass import PassProgress
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.data.image_set import stratified
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import CheckpointError, DataError, MeasurementError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.records.accuracy import AccuracyRecord

PLAN = BenchPlan(rs=(0, 20), gpus="none", batch_size=16, images=100)


class Quiet:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, device: str, model: str, stage: str) -> None:
        pass

    def passing(self, progress) -> None:
        self.done.append(progress.done)


def counts(record: AccuracyRecord) -> dict[str, tuple[int, int, float]]:
    return {arm.arm: (arm.images, arm.correct, arm.top5.value) for arm in record.arms}


@pytest.fixture(scope="module")
def alone_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[AccuracyRecord, Path]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return evaluate_plan(Evaluation(PLAN), folder, [CpuDevice()], Quiet()), folder


@pytest.fixture(scope="module")
def alone(alone_in: tuple[AccuracyRecord, Path]) -> AccuracyRecord:
    return alone_in[0]


@pytest.mark.parametrize("processes", [3])  # which does not divide the images
def test_processes_that_share_the_images_count_the_same(processes: int, alone: AccuracyRecord, tmp_path: Path) -> None:
    listener = Quiet()
    record = evaluate_plan(Evaluation(PLAN), tmp_path / "run", [CpuDevice()] * processes, listener)
    assert counts(record) == counts(alone)
    assert counts(record)["vim_nano/r0"][0] == 100
    assert record.status == "complete"
    assert max(listener.done) == 100
    assert len(record.devices) == processes


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Store.create(folder).close()
    shared = SharedPass(PLAN, (resolve(PLAN, "vim_nano"),), fashion_mnist.load("test").subset(32), folder, "shared")
    with pytest.raises(MeasurementError, match="--resume"):
        share(shared, [_dying()], lambda _: None, lambda _: None, lambda: False)


def _dying() -> CpuDevice:
    """A device whose process asks for a GPU that is not there."""
    device = CpuDevice()
    device.kind = "cuda"
    return device


def test_the_record_compares_every_arm_with_the_baseline(alone: AccuracyRecord) -> None:
    baseline, merged = alone.arms
    assert (baseline.delta_top1, baseline.p_value, baseline.agreement) == (None, None, None)
    assert merged.delta_top1 is not None
    assert merged.delta_top1.value == pytest.approx(100 * (merged.correct - baseline.correct) / 100)
    assert merged.p_holm == merged.p_value
    assert 80 < (merged.agreement or 0) <= 100
    assert [merged.weights, baseline.weights] == ["retrained", "baseline"]
    lost = sum(change.baseline_correct - change.correct for change in alone.classes)
    assert lost == baseline.correct - merged.correct
    assert [change.shrunk.value for change in alone.classes] == sorted(change.shrunk.value for change in alone.classes)


def test_models_of_equal_images_share_a_pass() -> None:
    plan = replace(PLAN, models=("vim_tiny", "vim_nano", "vim_small", "vim_tiny"))
    found = groups([resolve(plan, model) for model in dict.fromkeys(plan.models)])
    assert [[model.model for model in together] for together in found] == [["vim_tiny", "vim_small"], ["vim_nano"]]


@pytest.fixture(scope="module")
def pictures() -> Made:
    """Every 100th image of Fashion-MNIST, as files."""
    import io

    data = fashion_mnist.load("test")
    items = []
    for i in stratified(data.labels.numpy(), 100):
        buffer = io.BytesIO()
        Image.fromarray(data.pixels[i, 0].numpy()).save(buffer, "PNG")
        items.append((str(int(data.labels[i])), f"{i:05d}.png", buffer.getvalue()))
    return Made(tuple(sorted(items)), tuple(str(i) for i in range(10)))


@pytest.mark.parametrize("layout", ["folders", "parquet", "tar"])
def test_every_layout_gives_the_accuracy_of_the_images(
    layout: str, pictures: Made, alone: AccuracyRecord, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write: Callable[[Made, Path], Path] = {"folders": write_folders, "parquet": write_parquet, "tar": write_tars}[layout]
    path = write(pictures, tmp_path / "data")
    words = ["eval", "--gpus", "none", "--r", "0,20", "--batch-size", "16", "--workers", "0", "--data", str(path)]
    assert main([*words, "--out", str(tmp_path / "run"), "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(arm["arm"], arm["images"], arm["correct"]) for arm in record["arms"]] == [
        (arm.arm, arm.images, arm.correct) for arm in alone.arms
    ]


def test_bad_files_stop_or_are_counted_as_asked(pictures: Made, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_folders(pictures, tmp_path / "data")
    name, file, data = pictures.items[37]
    (folder / name / file).write_bytes(data[:50])
    words = ["eval", "--gpus", "none", "--r", "0", "--batch-size", "16", "--workers", "0", "--data", str(folder)]
    assert main([*words, "--out", str(tmp_path / "stop")]) == 2
    assert file in capsys.readouterr().err
    assert main([*words, "--on-error", "skip", "--out", str(tmp_path / "skip")]) == 0
    out = capsys.readouterr().out
    assert "99 of 100 images" in out
    assert f"left out, 1: damaged or cut short: {folder / name / file}" in out
    record = json.loads((tmp_path / "skip" / "accuracy.json").read_text())
    assert record["status"] == "complete"
    assert [problem["path"] for problem in record["data"]["vim_nano"]["problems"]] == [str(folder / name / file)]


def test_an_interrupted_evaluation_is_resumed(tmp_path: Path, alone: AccuracyRecord) -> None:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= 3

    listener = Quiet()
    part = evaluate_plan(Evaluation(PLAN), tmp_path / "run", [CpuDevice()], listener, stop)
    assert part.status == "interrupted"
    assert part.arms[0].images == 48
    with pytest.raises(DataError, match="already holds a run"):
        evaluate_plan(Evaluation(PLAN), tmp_path / "run", [CpuDevice()], listener)
    whole = evaluate_plan(Evaluation(PLAN, resume=True), tmp_path / "run", [CpuDevice()], listener)
    assert counts(whole) == counts(alone)
    assert listener.done == [16, 32, 48, 64, 80, 96, 100]


def test_the_files_say_what_the_record_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["eval", "--gpus", "none", "--r", "0,20", "--subset", "100", "--out", str(tmp_path)]
    assert main(words) == 0
    heard = capsys.readouterr()
    assert "with 100 images, an accuracy of 80 % has an interval of 71.1 to 86.7 %" in heard.err
    assert {"accuracy.json", "accuracy.csv", "classes.csv", "classes.png", "run.sqlite"} <= {p.name for p in tmp_path.iterdir()}
    record = json.loads((tmp_path / "accuracy.json").read_text())
    with (tmp_path / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in rows] == [arm["top1"]["value"] for arm in record["arms"]]
    with (tmp_path / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert len(classes) == 10
    assert sum(int(row["images"]) for row in classes) == 100
    for row in rows:
        assert f"{float(row['top1']):.2f}" in heard.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--checkpoints", "none"], "no weights to evaluate"),
        (["--workers", "-1"], "--workers must be 0"),
        (["--resume"], "--resume needs --out"),
        (["--data", "no/such/set"], "no folder and no file"),
        (["--images", "0"], "at least 1"),
        (["--model", "vim_small"], "no weights to evaluate"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "--gpus", "none", "--r", "0", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("rmeeto-bench: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing half begun is in the way of the next try


def test_the_zoo_says_offline_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto_bench.checkpoints.hub._download", lambda repo, filename: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    plan = replace(PLAN, models=("vim_small",), rs=(0, 11), checkpoints="zoo")
    with pytest.raises(CheckpointError, match=r"hf download hustvl/Vim-small-midclstok vim_s_midclstok_80p5acc\.pth"):
        evaluate_plan(Evaluation(plan), tmp_path / "run", [CpuDevice()], Quiet())


def test_accuracy_is_of_the_predictions_in_the_store(alone_in: tuple[AccuracyRecord, Path]) -> None:
    record, folder = alone_in
    labels = fashion_mnist.load("test").subset(100).labels.numpy()
    with Store.open(folder) as store:
        for arm in record.arms:
            best = store.predictions("shared", arm.arm)
            assert arm.correct == int((best[:, 0] == labels).sum())
            assert arm.top5.value == pytest.approx(100 * np.mean((best == labels[:, None]).any(1)))


def test_progress_has_every_ratios_accuracy_and_the_time_left() -> None:
    from rmeeto_bench.cli.passing import running

    progress = PassProgress(done=60, total=100, earlier=20, read=50, correct={"m/r0": 40, "m/r11": 35}, seconds=10.0)
    assert running(progress) == "top-1 % r0 80.0 r11 70.0, 10 s left"  # 40 images took 10 s, 40 are left
    assert "5.0 min left" in running(replace(progress, total=1260))
    assert running(replace(progress, read=0, correct={"m/r0": 0})).startswith("top-1 % r0 0.0")
