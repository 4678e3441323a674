"""Evaluations, which are runs: processes that share the images, layouts on disk, interruption, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_harness import Heard, controls
from made_images import Made, write_folders, write_parquet, write_tars
from PIL import Image

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import resume, run
from rmeeto_bench.bench.run.sharing import shares
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.progress import PassProgress
from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.summary.raw import raw_of
from rmeeto_bench.cli.main import main
from rmeeto_bench.data.image_set import stratified
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import CheckpointError, DataError, UsageError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.measure.protocol import PRESETS, QUICK
from rmeeto_bench.records.run import DATABASE, DeviceRecord, RunRecord, load

PLAN = BenchPlan(rs=(0, 20), gpus="none", batch_size=16, images=100, accuracy_only=True)
WORDS = ["eval", "--gpus", "none", "--r", "0,20", "--batch-size", "16"]


def accuracies(record: RunRecord) -> list[tuple[Any, ...]]:
    """Everything that a record says of accuracy."""
    return [(a.arm, a.n_images, a.top1, a.top5, a.delta_top1, a.top1_p, a.calibration_error, a.agreement) for a in record.arms]


def stored(folder: Path) -> list[set[tuple[Any, ...]]]:
    """Predictions, confidences and labels, to the bit."""
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        return [set(connection.execute(f"SELECT * FROM {table}")) for table in ("prediction", "confidence", "seen", "pass")]


@pytest.fixture(scope="module")
def alone_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return run(PLAN, folder, controls()), folder


@pytest.fixture(scope="module")
def alone(alone_in: tuple[RunRecord, Path]) -> RunRecord:
    return alone_in[0]


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto_bench.bench.run.sharing.cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


@pytest.mark.usefixtures("three_cores")
def test_processes_that_share_the_images_store_the_same_to_the_bit(alone_in: tuple[RunRecord, Path], tmp_path: Path) -> None:
    listening = controls()
    record = run(PLAN, tmp_path / "run", listening)
    assert isinstance(listening.tell, Heard)
    assert accuracies(record) == accuracies(alone_in[0])
    assert stored(tmp_path / "run") == stored(alone_in[1])
    assert [arm.verdict for arm in record.arms] == ["VALID", "VALID"]
    assert max(progress.done for progress in listening.tell.progress) == 100  # all of them as one
    assert [stage for _, stage in listening.tell.stages] == ["accuracy: building", "accuracy"]  # of three processes, said once
    with Store.open(tmp_path / "run") as store:
        assert [session.status for session in store.sessions("cpu")] == ["done"] * 3


def test_gpus_share_what_is_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto_bench.bench.run.sharing.cores", lambda: 16)
    gpus = [DeviceRecord(f"cuda:{name}", "H100", "cuda") for name in "abc"]
    job = Job("accuracy", "run", PLAN.as_dict(), "cuda:a", "vim_nano", [], owner="cuda:a")
    found = shares(job, gpus)
    assert [(one.device, one.shard, one.owner, one.workers) for one in found] == [
        (f"cuda:{name}", (i, 3), "cuda:a", 5) for i, name in enumerate("abc")
    ]
    assert shares(job, gpus[:1])[0].workers is None
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    on_cpu = shares(replace(job, device="cpu", workers=9), [DeviceRecord("cpu", "CPU", "cpu")])
    assert [(one.device, one.threads, one.workers) for one in on_cpu] == [("cpu", 1, 2)] * 4


def test_devices_share_an_evaluation_and_one_does_the_share_of_another_that_is_gone(
    alone_in: tuple[RunRecord, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(job: Job) -> None:
        """In the worker of the device that this machine lacks: the CPU stands in for it, and ends after a batch if so asked."""
        if job.device == "other":
            monkeypatch.setattr("rmeeto_bench.bench.session.jobs.own_device", lambda *_: CpuDevice())
            if "lost" in job.folder:
                monkeypatch.setattr(Predictions, "add", lambda *_: os._exit(9))

    both = (DeviceRecord("cpu", "A", "cpu"), DeviceRecord("other", "B", "cpu"))
    with monkeypatch.context() as patch:
        patch.setattr("rmeeto_bench.bench.run.runner.discover", lambda _: both)
        shared = run(PLAN, tmp_path / "shared", controls(second))
        part = run(PLAN, tmp_path / "lost", controls(second))
    assert (shared.status, accuracies(shared)) == ("complete", accuracies(alone_in[0]))
    assert ({arm.device for arm in shared.arms}, len(shared.devices)) == ({"cpu"}, 2)
    assert (part.status, part.failures[0].partition(":")[0]) == ("failed", "B (other), the accuracy pass")
    heard = controls()
    whole = resume(tmp_path / "lost", heard)
    assert (whole.status, whole.failures, accuracies(whole)) == ("complete", (), accuracies(alone_in[0]))
    assert heard.tell.notes[0] == "B (other): not in this machine any more"  # type: ignore[attr-defined]
    assert stored(tmp_path / "shared") == stored(tmp_path / "lost") == stored(alone_in[1])


@pytest.mark.usefixtures("three_cores")
def test_what_was_evaluated_before_a_process_died_is_kept(alone_in: tuple[RunRecord, Path], tmp_path: Path) -> None:
    def die(job: Job) -> None:
        add = Predictions.add
        batches: list[int] = []

        def add_and_die(self: Predictions, *rest: Any) -> None:
            add(self, *rest)
            batches.append(1)
            if job.shard[0] == 1 and len(batches) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        Predictions.add = add_and_die  # type: ignore[method-assign]  # in the child only

    part = run(PLAN, tmp_path / "run", controls(die))
    assert part.status == "failed"
    assert "the accuracy pass: its process was ended by SIGKILL" in part.failures[0]
    assert {arm.verdict for arm in part.arms} == {"INTERRUPTED"}
    assert 16 <= part.arms[0].n_images < 100
    whole = resume(tmp_path / "run", controls())
    assert (whole.status, accuracies(whole)) == ("complete", accuracies(alone_in[0]))
    assert stored(tmp_path / "run") == stored(alone_in[1])


def test_the_record_compares_every_arm_with_the_baseline(alone_in: tuple[RunRecord, Path]) -> None:
    record, folder = alone_in
    baseline, merged = record.arms
    assert (baseline.delta_top1, baseline.top1_p, baseline.agreement) == (None, None, None)
    assert merged.delta_top1 is not None
    assert merged.top1 is not None
    assert baseline.top1 is not None
    assert merged.delta_top1.value == pytest.approx(merged.top1.value - baseline.top1.value)
    assert 80 < (merged.agreement or 0) <= 100
    assert [merged.weights, baseline.weights] == ["retrained", "baseline"]
    classes = raw_of(record, folder).classes
    assert sum(change.baseline_correct - change.correct for change in classes) == -round(merged.delta_top1.value)
    assert [change.shrunk.value for change in classes] == sorted(change.shrunk.value for change in classes)


@pytest.fixture(scope="module")
def pictures() -> Made:
    """Every 100th image of Fashion-MNIST, as files."""
    data = fashion_mnist.load("test")
    items = []
    for i in stratified(data.labels.numpy(), 100):
        buffer = io.BytesIO()
        Image.fromarray(data.pixels[i, 0].numpy()).save(buffer, "PNG")
        items.append((str(int(data.labels[i])), f"{i:05d}.png", buffer.getvalue()))
    return Made(tuple(sorted(items)), tuple(str(i) for i in range(10)))


@pytest.mark.parametrize("layout", ["folders", "parquet", "tar"])
def test_every_layout_gives_the_accuracy_of_the_images(layout: str, pictures: Made, alone: RunRecord, tmp_path: Path) -> None:
    write: Callable[[Made, Path], Path] = {"folders": write_folders, "parquet": write_parquet, "tar": write_tars}[layout]
    plan = replace(PLAN, data=write(pictures, tmp_path / "data"), images=None)
    record = run(plan, tmp_path / "run", controls(workers=0))
    assert [(arm.arm, arm.n_images, arm.top1) for arm in record.arms] == [
        (arm.arm, arm.n_images, arm.top1) for arm in alone.arms
    ]


def test_bad_files_stop_or_are_counted_as_asked(pictures: Made, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_folders(pictures, tmp_path / "data")
    name, file, data = pictures.items[37]
    (folder / name / file).write_bytes(data[:50])
    words = ["eval", "--gpus", "none", "--r", "0", "--batch-size", "16", "--workers", "0", "--data", str(folder)]
    assert main([*words, "--out", str(tmp_path / "stop")]) == 2
    assert file in capsys.readouterr().err
    assert main([*words, "--on-error", "skip", "--out", str(tmp_path / "skip")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "99 of 100 images" in out
    assert "left out, 1: damaged or cut short" in out
    record = load(tmp_path / "skip")
    assert record.status == "complete"
    assert record.data["vim_nano"]["unreadable"] == 1
    assert [problem["path"] for problem in record.data["vim_nano"]["problems"]] == [str(folder / name / file)]


def test_an_interrupted_evaluation_is_resumed(alone_in: tuple[RunRecord, Path], tmp_path: Path) -> None:
    """By `resume DIR`, and by `eval --resume`."""
    for name in ("a", "b"):
        asked: list[int] = []
        heard = controls(
            should_stop=lambda asked=asked: bool(asked), tell=lambda n, asked=asked: n.progress and asked.append(1)
        )
        part = run(PLAN, tmp_path / name, heard)
        assert (part.status, part.arms[0].verdict) == ("interrupted", "INTERRUPTED")
        assert 16 <= part.arms[0].n_images < 100
    with pytest.raises(DataError, match="already holds a run"):
        run(PLAN, tmp_path / "a", controls())
    assert main(["resume", str(tmp_path / "a")]) == 0
    assert main([*WORDS, "--images", "100", "--out", str(tmp_path / "b"), "--resume"]) == 0
    for name in ("a", "b"):
        assert accuracies(load(tmp_path / name)) == accuracies(alone_in[0])
        assert stored(tmp_path / name) == stored(alone_in[1])


def test_the_files_say_what_the_record_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*WORDS, "--subset", "100", "--out", str(tmp_path), "--json", str(tmp_path / "record.json")]) == 0
    heard = capsys.readouterr()
    assert "with 100 images, an accuracy of 80 % has an interval of 71.1 to 86.7 %" in heard.err
    drawn = {f"{name}.{kind}" for name in ("classes", "speed_accuracy") for kind in ("png", "pdf", "svg")}
    assert drawn | {"manifest.json", "table.csv", "classes.csv", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == json.loads((tmp_path / "manifest.json").read_text())
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in rows] == [arm["top1"]["value"] for arm in record["arms"]]
    with (tmp_path / "classes.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert len(classes) == 10
    assert sum(int(row["images"]) for row in classes) == 100
    assert float(classes[0]["shrunk_low"]) < float(classes[0]["shrunk"]) < float(classes[0]["shrunk_high"])
    for row in rows:
        assert f"{float(row['top1']):.2f}" in heard.out


def test_evaluations_are_compared_and_listed(alone_in: tuple[RunRecord, Path], tmp_path: Path, capsys: Any) -> None:
    other = run(replace(PLAN, rs=(0, 11, 20)), tmp_path / "other", controls())
    assert main(["compare", str(alone_in[1]), str(tmp_path / "other")]) == 0
    assert "SAME: 2 quantities" in capsys.readouterr().out
    assert main(["ls", str(tmp_path)]) == 0
    assert main(["show", str(tmp_path / "other")]) == 0
    assert "100 of 100 images of Fashion-MNIST" in " ".join(capsys.readouterr().out.split())
    assert [arm.arm for arm in other.arms] == ["vim_nano/r0", "vim_nano/r11", "vim_nano/r20"]


def test_a_run_with_accuracy_is_merged_with_an_evaluation(
    alone: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {"block_seconds": 0.01, "min_rounds": 3, "max_rounds": 3, "warmup_seconds": 0.0, "warmup_limit": 0.5}
    monkeypatch.setitem(PRESETS, "quick", replace(QUICK, **brief, max_rejected=50))
    timed = run(replace(PLAN, accuracy_only=False, preset="quick"), tmp_path / "timed", controls())
    assert [arm.rounds for arm in timed.arms] == [3, 3]
    assert accuracies(timed) == accuracies(alone)  # the same weights on the same images
    run(replace(PLAN, rs=(0, 5, 11)), tmp_path / "evaluated", controls())
    out = tmp_path / "merged"
    assert main(["merge", str(tmp_path / "timed"), str(tmp_path / "evaluated"), "--out", str(out)]) == 0
    merged = load(out)
    assert [(arm.r, arm.rounds, arm.n_images) for arm in merged.arms] == [(0, 3, 100), (5, 0, 100), (11, 0, 100), (20, 3, 100)]
    assert {change.arm for change in raw_of(merged, out).classes} == {"vim_nano/r5", "vim_nano/r11", "vim_nano/r20"}
    assert (out / "classes.csv").is_file()


def test_a_dry_run_speaks_of_no_timing(capsys: Any) -> None:
    assert main(["--gpus", "none", "--accuracy-only", "--r", "0", "--images", "12", "--dry-run", "--out", "o"]) == 0
    said = capsys.readouterr().out
    assert "the accuracy pass (12 images through 1 arms" in said
    assert "sessions" not in said
    assert "timing" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--checkpoints", "none"], "no weights to evaluate"),
        (["--workers", "-1"], "--workers must be 0"),
        (["--resume"], "--resume needs the folder of the run"),
        (["--data", "no/such/set"], "no folder and no file"),
        (["--images", "0"], "at least 1"),
        (["--batch-size", "sweep"], "an evaluation times nothing"),
        (["--gpus", "sim"], "a simulated device classifies no images"),
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


def test_images_of_another_size_are_refused_before_anything_starts(tmp_path: Path) -> None:
    plan = replace(PLAN, models=("vim_tiny",), checkpoints="none", data=fashion_mnist.BUNDLED, accuracy_only=False)
    with pytest.raises(UsageError, match=r"has images of \(1, 28, 28\), vim_tiny takes \(3, 224, 224\)"):
        run(plan, tmp_path / "run", controls())


def test_the_zoo_says_offline_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmeeto_bench.checkpoints.hub._download", lambda repo, filename: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    plan = replace(PLAN, models=("vim_small",), rs=(0, 11), checkpoints="zoo")
    with pytest.raises(CheckpointError, match=r"hf download hustvl/Vim-small-midclstok vim_s_midclstok_80p5acc\.pth"):
        run(plan, tmp_path / "run", controls())


def test_progress_has_every_ratios_accuracy_and_the_time_left() -> None:
    progress = PassProgress(done=60, total=100, earlier=20, read=50, correct={"m/r0": 40, "m/r11": 35}, seconds=10.0)
    assert progress.words() == "top-1 % r0 80.0 r11 70.0, 10 s left"  # 40 images took 10 s, 40 are left
    assert "5.0 min left" in replace(progress, total=1260).words()
    assert replace(progress, read=0, correct={"m/r0": 0}).words().startswith("top-1 % r0 0.0")
