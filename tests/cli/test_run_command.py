"""The main job from the command line to the files, on the CPU with the bundled model and data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fresh import PLAIN, start

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.catalogue import BUNDLED
from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import load

CONTRACT = {
    "run.sqlite",
    "manifest.json",
    *(f"table.{end}" for end in ("csv", "md", "tex")),
    *(f"speed_accuracy.{end}" for end in ("png", "pdf", "svg")),
    "report.html",
}


@pytest.fixture(scope="module")
def folder(measured: Path) -> Path:
    return measured / "a"


def test_the_run_leaves_every_file_of_the_contract(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= CONTRACT
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_record_says_what_was_measured_with_what(folder: Path) -> None:
    record = load(folder)
    assert record.status == "complete"
    assert [arm.r for arm in record.arms] == [0, 20]
    assert [arm.weights for arm in record.arms] == ["baseline", "retrained"]
    assert all(arm.checkpoint_sha256 and len(arm.checkpoint_sha256) == 64 for arm in record.arms)
    merged = record.arms[1]
    assert (merged.token_counts[0], merged.token_counts[-1]) == (197, 6)
    assert merged.reduction_ratio == pytest.approx(0.5397, abs=2e-3)
    assert merged.n_images == 100
    assert merged.rounds >= 6
    assert merged.speedup.low is not None
    assert record.environment["packages"]["torch"]
    assert record.environment["variables"]["GOMP_SPINCOUNT"], "beside other programs, threads that wait actively burn the cores"
    assert record.data["vim_nano"]["inputs"] == "real images"


def test_every_block_and_prediction_is_in_the_database(folder: Path) -> None:
    record = load(folder)
    with sqlite3.connect(folder / "run.sqlite") as connection:
        blocks = connection.execute("SELECT arm, count(*) FROM block GROUP BY arm").fetchall()
        counts = connection.execute("SELECT arm, sum(count) FROM prediction GROUP BY arm").fetchall()
    assert dict(blocks) == {arm.arm: arm.rounds for arm in record.arms}
    assert dict(counts) == {arm.arm: 100 for arm in record.arms}


def test_python_reads_the_same_run(folder: Path) -> None:
    table = rb.load_run(folder).table()
    assert list(table["r"]) == [0, 20]
    assert table["top1"].between(70, 100).all()


def test_report_draws_the_same_files_again_without_measuring(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    for name in ("table.csv", "table.md", "table.tex", "report.html", "speed_accuracy.svg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert "speed-up" in capsys.readouterr().out


def test_the_line_works_exactly_as_typed_and_json_goes_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    words = ["--device", "sim", "--gpus", "v100", "--ratios", "0,0.14,...,0.54", "--quick", "--json", "-"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert [arm["r"] for arm in record["arms"]] == [0, 5, 10, 11, 15, 20]
    assert [arm["ratio_requested"] for arm in record["arms"]] == [0, 0.14, 0.28, 0.31, 0.42, 0.54]
    assert "| 0.54 |" in summary.read_text(encoding="utf-8")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "rmeeto_bench", "--gpus", "none", "--quick", "--r", "0,20", "--batch-size", "2"]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        database = out / "run.sqlite"
        if database.is_file():
            try:
                with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                    if connection.execute("SELECT count(*) FROM block").fetchone()[0] >= 2:
                        break
            except sqlite3.OperationalError:
                pass  # the tables are being made
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "what is measured is kept" in errors
    assert "Traceback" not in errors
    assert load(out).status == "interrupted"
    assert {path.name for path in out.iterdir()} >= CONTRACT
    with sqlite3.connect(out / "run.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM block").fetchone()[0] >= 2


def test_training_free_arms_say_so_and_without_weights_accuracy_is_a_dash(brief: Path, tmp_path: Path) -> None:
    """And where there is no GPU the processor is measured."""
    (tmp_path / "only").mkdir()
    shutil.copy(BUNDLED / "vim_nano_r0.safetensors", tmp_path / "only")
    variables = {**os.environ, **PLAIN, "PYTHONPATH": str(brief), "CUDA_VISIBLE_DEVICES": ""}
    words = "run --gpus all --model vim_nano --quick --images 20 --batch-size 4"
    for more in ("--r 0,20 --checkpoints only --accuracy-only --out free", "--r 0 --checkpoints none --out dash"):
        done = start([*words.split(), *more.split()], tmp_path, variables)
        assert done.code == 0, done
        assert "measuring on the CPU" in done.err
    assert [arm.weights for arm in load(tmp_path / "free").arms] == ["baseline", "training-free"]
    assert "training-free" in (tmp_path / "free" / "table.md").read_text(encoding="utf-8")
    (arm,) = load(tmp_path / "dash").arms
    assert (arm.weights, arm.top1) == ("random", None)
    assert arm.images_per_second is not None
    assert "| — |" in (tmp_path / "dash" / "table.md").read_text(encoding="utf-8")
