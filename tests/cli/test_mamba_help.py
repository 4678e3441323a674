"""What doctor says about mamba-ssm: not needed, and why a build would fail on this machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rmeeto_bench.cli import install_help as mamba_help
from rmeeto_bench.cli.main import main


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_help, "_missing", lambda: ["mamba_ssm", "causal_conv1d"])


def put_nvcc(folder: Path, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.usefixtures("missing")
def test_without_a_gpu_it_is_not_recommended() -> None:
    lines = mamba_help.lines("13.0", 0)
    assert "not needed" in lines[0]
    assert "torch sees none" in lines[1]
    assert len(lines) == 2


@pytest.mark.usefixtures("missing")
def test_the_frequent_causes_and_this_machines_obstacles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvcc(tmp_path, "12.6", monkeypatch)
    text = "\n".join(mamba_help.lines("13.0", 1))
    assert "here: nvcc is of CUDA 12.6, torch of 13.0" in text
    for cause in ("--no-build-isolation", "undefined symbol", "MAX_JOBS", "sm_70", "bimamba_type"):
        assert cause in text
    put_nvcc(tmp_path, "13.0", monkeypatch)
    assert "nvcc is of CUDA" not in "\n".join(mamba_help.lines("13.0", 1))


def test_a_machine_without_a_toolkit_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mamba_help.toolkit_version() is None
    found = mamba_help.obstacles(None)
    assert any("without CUDA" in line for line in found)
    assert any("no nvcc" in line for line in found)
    assert any("no g++" in line for line in found)


def test_doctor_says_it(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--gpus", "none"]) == 0
    assert "mamba-ssm: not needed" in capsys.readouterr().out
