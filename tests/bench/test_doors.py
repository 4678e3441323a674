"""What one command wrote, taken up by others: a run with accuracy in a fresh process, merged, shown, resumed, compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rmeeto_bench.cli.main import main
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.records.run import load

FAST = ("--gpus", "none", "--quick", "--r", "0", "--batch-size", "10")


def write_pictures(folder: Path, count: int = 20) -> Path:
    data = fashion_mnist.load("test").subset(count)  # every class is there
    for i in range(count):
        place = folder / str(int(data.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.pixels[i, 0].numpy()).save(place / f"i{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `v` (pictures) and the run `a` on them, made by the program as typed."""
    root = tmp_path_factory.mktemp("doors")
    write_pictures(root / "v")
    words = [sys.executable, "-m", "rmeeto_bench", *FAST, "--data", "v", "--out", "a"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


def test_a_run_with_accuracy_is_merged_shown_and_compared(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = runs / "a", tmp_path / "merged"
    assert main(["merge", str(run), "--out", str(out)]) == 0
    assert load(out).arms[0].top1 == load(run).arms[0].top1
    assert main(["show", str(out)]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), str(out), "--json", "-"]) in (0, 4)
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [change["detail"] for change in changes if change["metric"] == "top-1"] == ["paired by image"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "vim_tiny"), "--model vim_nano, not vim_tiny"),
        (("--ratios", "0,0.31"), "other ratios"),
        (("--r", "0,5"), "--r 0, not 0,5"),
        (("--data", "nosuch"), "--data"),
        (("--precision", "bf16"), "--precision auto, not bf16"),
        (("--seed", "3"), "--seed 0, not 3"),
    ],
)
def test_resuming_something_else_is_refused_and_says_what_differs(
    words: tuple[str, str], says: str, runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    before = (runs / "a" / "manifest.json").read_bytes()
    assert main(["--resume", "--out", "a", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert (runs / "a" / "manifest.json").read_bytes() == before


def test_resuming_from_another_folder_finds_the_data_and_notices_other_images(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["resume", str(runs / "a")]) == 0
    capsys.readouterr()
    kept = runs / "kept"
    shutil.copytree(runs / "v", kept)
    try:
        changed = next((runs / "v").rglob("*.png"))
        Image.effect_noise((28, 28), 90).save(changed)
        assert main(["resume", str(runs / "a")]) == 2
        error = capsys.readouterr().err
        assert changed.name in error
        assert "is not the image it was" in error
    finally:
        shutil.rmtree(runs / "v")
        kept.rename(runs / "v")


@pytest.mark.parametrize("flag", ["--data", "--checkpoints", "--backend"])
def test_a_dry_run_finds_what_is_not_there(flag: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["--dry-run", "--gpus", "none", "--r", "0", flag, str(tmp_path / "nosuch")]) == 2
    captured = capsys.readouterr()
    assert "nosuch" in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_negative_seed_is_refused_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["--device", "sim", "--gpus", "v100", "--quick", "--r", "0", "--seed", "-1", "--out", str(tmp_path / "s")]) == 2
    assert "--seed must be 0 or more, not -1" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
