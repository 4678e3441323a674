"""`calibrate` from the command line, on simulated devices; tests/doors calibrates the CPU, in fresh processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmeeto_bench.cli.main import main
from rmeeto_bench.compare.noise import load_noise_profile
from rmeeto_bench.measure.devices.device import find_devices
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice


def test_it_keeps_a_profile_per_simulated_device_and_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", "--device", "sim", "--gpus", "rtx4090,v100", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "RTX 4090 (simulated): 12 processes, 96 rounds" in said
    assert "a gate of 6 pairs with a margin of 0.75 % of images/s FAILs a loss of" in said
    profiles = [load_noise_profile(device, tmp_path) for device in ("sim:rtx4090", "sim:v100")]
    assert all(profile is not None and 0 < profile.noise.within_sd < 0.01 for profile in profiles)
    assert profiles[0] is not None
    assert profiles[1] is not None
    assert profiles[0].noise != profiles[1].noise


def simulate(monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    """Let `--device sim` be one device that behaves so."""
    (quiet,) = find_devices("sim:v100")
    assert isinstance(quiet, SimDevice)

    def found(_: str, **noise: int) -> list[SimDevice]:
        return [SimDevice(quiet.profile, scenario=scenario, **{"seed": 0, **noise})]

    for place in ("session.context", "run.devices"):
        monkeypatch.setattr(f"rmeeto_bench.bench.{place}.find_devices", found)


def test_a_busy_device_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    simulate(monkeypatch, Scenario(contended_share=1.0))
    words = ["calibrate", "--device", "sim", "--out", str(tmp_path)]
    assert main(words) == 5
    assert main([*words, "--allow-busy"]) == 0


@pytest.mark.parametrize("cost", [0.0, 0.01])
def test_telemetry_that_slows_the_device_down_is_flagged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture, cost: float
) -> None:
    simulate(monkeypatch, Scenario(telemetry_cost=cost))
    assert main(["calibrate", "--device", "sim", "--out", str(tmp_path)]) == 0
    assert ("warning: watching this device slows it down" in capsys.readouterr().out) is (cost > 0)


def test_flags_reach_the_measurement(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [
        "calibrate",
        "--device",
        "sim",
        "--gpus",
        "v100",
        "--out",
        str(tmp_path),
        "--json",
        "--processes",
        "4",
        "--rounds",
        "7",
    ]
    assert main([*words, "--seed", "1"]) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert (first["noise"]["sessions"], first["noise"]["rounds"]) == (4, 28)
    assert main([*words, "--seed", "2"]) == 0
    (second,) = json.loads(capsys.readouterr().out)
    assert second["noise"] != first["noise"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "sim", "--gpus", "nothing"], "no profile 'nothing' to simulate"),
        (["--device", "sim", "--processes", "2"], "--processes must be at least 4, not 2"),
        (["--device", "sim", "--processes", "5"], "--processes must be even, not 5"),
        (["--device", "sim", "--rounds", "5"], "--rounds must be at least 6, not 5"),
        (["--gpus", "none", "--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--gpus", "none", "--model", "vim_none"], "vim_none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
