"""Two processes under torchrun: the same weights as one with the doubled batch, also where one of them was killed on the way,
so that torchrun gave both their command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_images import write_fashion_mnist
from safetensors.torch import load_file

from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import UsageError
from rmeeto_bench.retrain.distributed import world

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


OPTIONS = ("--epochs", "2", "--save-every", "3", "--log-every", "2", "--resume")


def words(data: Path, out: Path, batch: int) -> list[str]:
    fixed = ["-m", "rmeeto_bench", "retrain", "--preset", "nano", "--fraction", "1", "--set", "img_size=14", "--device", "cpu"]
    return [*fixed, "-r", "5", "--data", str(data), "--out", str(out), "--batch-size", str(batch), *OPTIONS]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def curve(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "vim_nano_r5.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not lines[-1]["interrupted"]
    return [line["loss"] for line in lines[1:-1]]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "vim_nano_r5.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("set"), training=64)


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process wrote that takes 16 images at once: 8 steps, undisturbed."""
    out = tmp_path_factory.mktemp("one")
    assert main(words(data, out, 16)[2:]) == 0
    return out


def _workers(parent: int) -> list[int]:
    """Process ids of the training processes that a torchrun agent started."""
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()]


def killed(command: list[str], out: Path) -> tuple[int, str]:
    """Start torchrun and kill one of its workers after the first stored state; (exit status, standard error) at the end."""
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    states, deadline = out / "vim_nano_r5.state", time.monotonic() + 120
    while not list(states.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(_workers(process.pid)[-1], signal.SIGKILL)
    try:
        _, said = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        for pid in _workers(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        raise
    return process.returncode, said


def same(out: Path, one: Path) -> None:
    """Two processes of 8 images are one of 16, but for the order in which sums are rounded."""
    assert len(curve(one)) == 4
    assert curve(out) == pytest.approx(curve(one), abs=1e-4)
    alone = weights(one)
    for key, value in weights(out).items():
        assert torch.allclose(value, alone[key], atol=2e-4), key


def test_two_train_as_one_though_torchrun_starts_killed_workers_anew(data: Path, one: Path, tmp_path: Path) -> None:
    """Without a corner of the store for each restart, now and then both workers waited for a dead address."""
    status, said = killed([*TORCHRUN, "--max-restarts", "2", *words(data, tmp_path, 8)], tmp_path)
    assert status == 0, said[:6000]
    assert "exitcode: -9" in said, "the kill came too late"
    same(tmp_path, one)


def test_restarts_over_several_machines_want_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"WORLD_SIZE": "16", "RANK": "0", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in {**shared, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), world("cpu"):
        pass
