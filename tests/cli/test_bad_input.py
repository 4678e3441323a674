"""Bad input: one clear line that says what to do, the right exit code, never a traceback, nothing left behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from sample_runs import two_gpus

from rmeeto_bench.cli.main import main
from rmeeto_bench.records.run import save

# What is typed where `stored` is a run of two GPUs, and what the one line about it says; exit code 2.
MISTAKES = {
    "--gpus none --model vim_huge": "choose vim_tiny",
    "--gpus none --ratios 0,1.2": "lies in [0, 1)",
    "--gpus none --ratios 0,abc": "is no number",
    "--gpus none --ratios ...,0.5": "number on both sides",
    "--gpus none --r 0,-3": "0 or more",
    "--gpus none --batch-size 0": "at least 1",
    "--gpus none --batch-size many": "whole number or `sweep`",
    "--gpus none --precision fp8": "fp32, fp16, bf16",
    "--gpus none --inputs zeros": "real, random, both",
    "--gpus none --schedule chaos": "serial, parallel",
    "--gpus none --backend magic": "unknown backend",
    "--gpus none --checkpoints no/such/file.pth": "no/such/file.pth",
    "--gpus none --data no/such/folder": "no/such/folder",
    "--gpus none --quick --energy --out o": "--energy needs a GPU",
    "--gpus none --resume": "needs the folder",
    "--gpus none --dry-run --r 0 --data nosuch": "nosuch",
    "--gpus none --dry-run --r 0 --checkpoints nosuch": "nosuch",
    "--gpus none --dry-run --r 0 --backend nosuch": "nosuch",
    "--device sim --gpus none": "--gpus all",
    "--device sim --gpus gtx1": "no profile 'gtx1'",
    "--device sim --gpus v100 --quick --r 0 --seed -1 --out s": "--seed must be 0 or more, not -1",
    "--gpus none --quick --out /dev/full": "/dev/full",
    "nonsense": "the commands are run",
    "eval --gpus none --r 0 --checkpoints none": "no weights to evaluate",
    "eval --gpus none --r 0 --workers -1": "--workers must be 0",
    "eval --gpus none --r 0 --resume": "--resume needs the folder of the run",
    "eval --gpus none --r 0 --data no/such/set": "no folder and no file",
    "eval --gpus none --r 0 --images 0": "at least 1",
    "eval --gpus none --r 0 --batch-size sweep": "an evaluation times nothing",
    "eval --gpus sim --r 0": "a simulated device classifies no images",
    "eval --gpus none --r 0 --model vim_small": "no weights to evaluate",
    "report no/such/run": "give the folder of a run",
    "resume no/such/run": "give the folder of a run",
    "rerun no/such/run": "give the folder of a run",
    "show no/such/run": "give the folder of a run",
    "ls no/such/folder": "is no folder",
    "retrain --recipe secret": "nano_retrain",
    "retrain --r 5 --epochs -1": "must be positive",
    "calibrate --device sim --gpus nothing": "no profile 'nothing' to simulate",
    "calibrate --device sim --processes 2": "--processes must be at least 4, not 2",
    "calibrate --device sim --processes 5": "--processes must be even, not 5",
    "calibrate --device sim --rounds 5": "--rounds must be at least 6, not 5",
    "calibrate --device sim --block-seconds 0.005": "--block-seconds lies between 0.01 and 600",
    "calibrate --gpus none --batch-size 0": "--batch-size must be at least 1, not 0",
    "calibrate --gpus none --model vim_none": "vim_none",
    "ablate colour": "choose metric",
    "ablate order --model vim_small": "no weights ship",
    "ablate order --images 0": "at least 1",
    "ablate order --retrained --r 7": "at r = 7",
    "ablate order --retrained --checkpoint x.pth": "give one of them",
    "visualize no_such.png": "no_such.png",
    "roofline": "--gpu PROFILE",
    "roofline --gpu h300": "lists the names",
    "roofline --gpu cpu": "has no rates",
    "roofline --gpu h200 --batch-size 0": "at least 1",
    "roofline stored --model vim_tiny": "does not go with a RUN",
    "flops --model vim_huge": "choose",
    "flops --ratios 1.5": "lies in [0, 1)",
    "paper": "name an item",
    "paper 99": "--list",
    "paper fig4": "--out DIR",
    "paper 12 --all": "exclude each other",
    "paper 12 --list": "only lists",
    "paper 12 --runs nowhere": "give the folder of a run",
}
OF_THE_MACHINE = {"--gpus 7": "7", "--gpus 'RTX 9090'": "no GPU RTX 9090"}  # exit code 6


@pytest.mark.parametrize("line", [*MISTAKES, *OF_THE_MACHINE])
def test_a_mistake_gets_one_line_and_its_exit_code(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(two_gpus(), tmp_path / "stored")
    code, error = main(shlex.split(line)), capsys.readouterr().err
    assert code == (2 if line in MISTAKES else 6), error
    assert (MISTAKES | OF_THE_MACHINE)[line] in error
    assert error.startswith("rmeeto-bench: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]
