"""resume, rerun, ls, show, --dry-run and --device sim as typed, in processes as they are for people."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_harness import controls, sim_plan

import rmeeto_bench as rb
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import MANIFEST, load
from rmeeto_bench.report.run.files import write_all

COMMAND = [sys.executable, "-m", "rmeeto_bench", "--device", "sim", "--quick", "--r", "0,20", "--model", "vim_tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    write_all(run(sim_plan("rtx4090,h100-sxm", preset="quick"), out, controls()), out)
    return out


@pytest.mark.slow
def test_a_simulated_run_as_typed_shows_one_table_over_kinds_in_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal of Latin-1, for a user who draws with TeX, into a folder whose name looks like markup."""
    folder = tmp_path / "run[" / "bold]"
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: serif\n", encoding="utf-8")
    done = subprocess.run(
        [*COMMAND, "--gpus", "rtx4090,h100-sxm", "--out", str(folder)],
        capture_output=True,
        encoding="latin-1",
        env=os.environ
        | {"COLUMNS": "80", "PYTHONIOENCODING": "latin-1", "PYTHONWARNINGS": "error", "MPLCONFIGDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout
    assert "—" not in done.stdout  # Latin-1 has none; the table has them in other terminals
    assert {"speed_accuracy.pdf", "report.html"} <= {path.name for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert main(["ls", "run["]) == 0
    assert "bold]" in capsys.readouterr().out
    assert max(len(line) for line in done.stdout.splitlines() if "files:" not in line and "simulated)," not in line) <= 110
    overview = done.stdout[done.stdout.index("vim_tiny: images/s, speed-up") :]
    assert "RTX 4090 (simulated)" in overview
    assert "H100 SXM (simulated)" in overview
    assert "SIMULATED" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("session 1: timing") == 2
    assert [arm.verdict for arm in load(folder).arms] == ["SIMULATED"] * 4


@pytest.mark.slow
def test_the_second_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-m", "rmeeto_bench", "--gpus", "none", "--rigorous", "--r", "0", "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / MANIFEST).exists():
        time.sleep(0.1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"continue with: rmeeto-bench resume {out}" in errors
    assert "Traceback" not in errors


def test_ls_lists_runs_and_says_which_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = folder.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / MANIFEST).write_text("{")
    assert main(["ls", str(folder.parent)]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "complete" in text
    assert "unreadable" in text
    assert main(["ls", str(folder)]) == 0


def test_python_resumes_a_complete_run_without_measuring(folder: Path) -> None:
    before = load(folder).arms
    assert rb.resume(folder).record.arms == before


def test_a_dry_run_says_what_and_how_long_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--gpus", "none", "--dry-run", "--ratios", "0,0.54", "--paper-mode"]) == 0
    text = capsys.readouterr().out
    assert "6 sessions of 8 rounds, fp32, batch 32" in text
    assert "0.540 (r=20)" in text
    assert "the paper's protocol" in text
    assert re.search(r"timing in all: \d+ (s|min) to \d+ min", text)
    assert "and the accuracy pass" in text
    for words, says in (("--fed", "and the whole pipeline (3 min at most) and the accuracy pass"), ("--what train", "")):
        assert main(["--gpus", "none", "--dry-run", "--ratios", "0,0.54", *words.split()]) == 0
        text = capsys.readouterr().out
        assert says in text
        assert ("accuracy" in text) is bool(says), "of weights that change there is none"
    assert not list(tmp_path.iterdir())


def test_what_is_measured_beside_fits_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sim_plan("v100", preset="quick", inputs="both", paper_mode=True, sweep=True, batch_size=1)
    run(plan, tmp_path / "run", controls())
    for width in ("80", "160"):
        monkeypatch.setenv("COLUMNS", width)
        assert main(["show", str(tmp_path / "run")]) == 0
        text = capsys.readouterr().out
        table = text[: text.index("files:")]
        assert "…" not in table
        assert max(map(len, table.splitlines())) <= int(width)
        for title in ("paper's protocol", "p50/p90/p99 ms", "noise", "images/s by batch size", "512"):
            assert title in table
