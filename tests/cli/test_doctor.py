"""What `doctor` says would spoil a measurement, and what to do about it."""

from __future__ import annotations

import os

import pytest

from rmeeto_bench.cli.doctor import cpu_hazards, gpu_hazards
from rmeeto_bench.cli.main import main

FIT = {
    "driver": "580.1",
    "persistence": True,
    "mig": False,
    "temperature_c": 45,
    "power_limit_w": 450.0,
    "power_limit_default_w": 450.0,
    "display": False,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "compute_pids": [],
}


@pytest.mark.parametrize(
    ("change", "invalid", "says", "remedy"),
    [
        ({"compute_pids": [77, 78]}, True, "processes 77, 78", "stop them"),
        ({"mig": True}, False, "MIG", "nvidia-smi -mig 0"),
        ({"persistence": False}, False, "persistence mode is off", "nvidia-smi -pm 1"),
        ({"temperature_c": 84}, True, "84 deg C", "cool"),
        ({"power_limit_w": 300.0}, False, "300 W, usual are 450 W", "nvidia-smi -pl 450"),
        ({"display": True}, False, "a display is attached", "without a desktop"),
        ({"pcie_width": 4}, False, "4 of 16 lanes", "slot"),
        ({"max_sm_mhz": 2000}, False, "UNLOCKED", "nvidia-smi -lgc 1500,1500"),
    ],
)
def test_each_hazard_has_its_remedy(change: dict, invalid: bool, says: str, remedy: str) -> None:
    ((found, what, advice),) = gpu_hazards(FIT | change)
    assert found is invalid
    assert says in what
    assert remedy in advice


def test_a_fit_gpu_has_none_and_an_unknown_one_says_so() -> None:
    assert list(gpu_hazards(FIT)) == []
    assert list(gpu_hazards(FIT | {"compute_pids": [os.getpid()]})) == []
    ((invalid, what, _),) = gpu_hazards({"unavailable": "no driver"})
    assert not invalid
    assert "no driver" in what


def test_a_busy_processor_is_a_hazard() -> None:
    assert list(cpu_hazards(0.2, 2, 2)) == []
    ((invalid, what, _),) = cpu_hazards(3.0, 2, 2)
    assert invalid
    assert "3.0 on 2 cores" in what
    assert [invalid for invalid, _, _ in cpu_hazards(0.2, 2, 8)] == [False]


def test_strict_turns_a_hazard_into_an_exit_code(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0, 0))
    assert main(["doctor", "--gpus", "none"]) == 0
    text = capsys.readouterr().out
    assert "would make a run invalid: the load average is 99.0" in text
    assert "remedy:" in text
    assert main(["doctor", "--gpus", "none", "--strict"]) == 6
    assert "not fit to measure" in capsys.readouterr().err
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0, 0))
    assert main(["doctor", "--gpus", "none", "--strict"]) == 0
