"""What `doctor` says would spoil a measurement, and what to do about it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from rmeeto_bench.cli.commands.doctor import cpu_hazards, gpu_hazards
from rmeeto_bench.cli.main import main
from rmeeto_bench.compare.noise import Noise, NoiseProfile, save_noise_profile
from rmeeto_bench.records.run import Estimate

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
        ({"power_limit_w": 300.0}, False, "300 W instead of the usual 450 W", "nvidia-smi -pl 450"),
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


def test_it_says_what_changes_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["doctor", "--gpus", "none", "--model", "vim_nano"]) == 0
    assert "noise: not measured" in capsys.readouterr().out
    values = {field.name: 0.0 for field in fields(Noise)}
    noise = Noise(**{**values, "margin": 0.02, "fails": 0.034, "passes": 0.012, "telemetry_cost": Estimate(0.0)})
    save_noise_profile(NoiseProfile("cpu", "a processor", "2026-11-26T10:00:00Z", "1", noise))
    assert main(["doctor", "--gpus", "none", "--model", "vim_nano"]) == 0
    said = capsys.readouterr().out
    assert "noise (calibrated 2026-11-26): a gate of 6 pairs with a margin of 2 % of images/s FAILs a loss of 3.4 %" in said
