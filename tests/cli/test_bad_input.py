"""Bad input: one clear line that says what to do, the right exit code, never a traceback."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from rmeeto_bench.cli.main import main


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def failing(words: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    line = [text for text in errors.splitlines() if text.startswith("rmeeto-bench")][-1]
    return code, line


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--gpus", "none", "--model", "vim_huge"], 2, "choose vim_tiny"),
        (["--gpus", "none", "--ratios", "0,1.2"], 2, "lies in [0, 1)"),
        (["--gpus", "none", "--ratios", "0,abc"], 2, "is no number"),
        (["--gpus", "none", "--ratios", "...,0.5"], 2, "number on both sides"),
        (["--gpus", "none", "--r", "0,-3"], 2, "0 or more"),
        (["--gpus", "none", "--batch-size", "0"], 2, "at least 1"),
        (["--gpus", "none", "--precision", "fp8"], 2, "fp32, fp16, bf16"),
        (["--gpus", "none", "--backend", "magic"], 2, "unknown backend"),
        (["--gpus", "none", "--checkpoints", "no/such/file.pth"], 2, "no/such/file.pth"),
        (["--gpus", "none", "--data", "no/such/folder"], 2, "no/such/folder"),
        (["--gpus", "7"], 6, "7"),
        (["nonsense"], 2, "the commands are run"),
        (["report", "no/such/run"], 2, "give the folder of a run"),
        (["retrain", "--recipe", "secret"], 2, "nano_retrain"),
        (["retrain", "--r", "5", "--epochs", "-1"], 2, "must be positive"),
    ],
)
def test_a_mistake_gets_one_line_and_its_exit_code(
    words: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, line = failing(words, capsys)
    assert found == code, line
    assert says in line


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--gpu", "all"])
    assert stop.value.code == 2


@pytest.mark.parametrize("kind", ["truncated", "hostile", "other model", "empty"])
def test_a_bad_checkpoint_is_named_before_anything_is_measured(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, marker = tmp_path / "vim_nano_r0.pth", tmp_path / "executed"
    if kind == "truncated":
        torch.save({"model": {"head.weight": torch.zeros(1000, 10)}}, path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"model": Payload(marker)}))
    elif kind == "other model":
        torch.save({"model": {"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}}, path)
    else:
        path.write_bytes(b"")
    out = tmp_path / "out"
    code, line = failing(["--gpus", "none", "--quick", "--checkpoints", str(path), "--out", str(out)], capsys)
    assert code == 2
    assert "vim_nano_r0.pth" in line
    assert not marker.exists()


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code, line = failing(["--gpus", "none", "--quick", "--out", "/dev/full"], capsys)
    assert code in (2, 6)
    assert "/dev/full" in line


def test_help_and_version_answer(capsys: pytest.CaptureFixture) -> None:
    for words, says in ((["--help"], "--ratios"), (["retrain", "--help"], "--recipe"), (["--version"], "rmeeto-bench")):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        assert says in capsys.readouterr().out


def test_lists_answer(capsys: pytest.CaptureFixture) -> None:
    assert main(["models"]) == 0
    assert "vim_small" in capsys.readouterr().out
    assert main(["profiles"]) == 0
    assert "RTX 4090" in capsys.readouterr().out
