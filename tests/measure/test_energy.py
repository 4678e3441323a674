"""Joules per image are given where counter and power agree over long enough, and a dash elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measure.replay import ReplayNvml, ReplayPoller, trace

from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.measure.devices.nvml import NvmlTelemetry
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.energy import EnergyReading, joules_per_image, measure_energy
from rmeeto_bench.measure.protocol import TimedArm
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.report.run.tables import joules_text

PROFILE = next(profile for profile in load_profiles() if profile.name == "h100-sxm")
QUIET = Scenario(ar_sd=0.0, idiosyncratic_sd=0.0)


class MeteredDevice(SimDevice):
    """Simulated times, power and energy from a trace."""

    def __init__(self, path: Path, **nvml: Any) -> None:
        super().__init__(PROFILE, seed=0, scenario=QUIET)
        self.nvml = ReplayNvml(path, self.clock, **nvml)

    def telemetry(self) -> NvmlTelemetry:  # type: ignore[override]
        return NvmlTelemetry("x", nvml=self.nvml, poller=ReplayPoller(self.nvml))  # type: ignore[arg-type]


def readings(device: SimDevice, **how: Any) -> list[EnergyReading]:
    return measure_energy(device, TimedArm("a", device.step("a", 0.1), 128), **how)


def test_a_steady_300_watts_at_1280_images_a_second(tmp_path: Path) -> None:
    found = joules_per_image(readings(MeteredDevice(trace(tmp_path / "t.jsonl", 200, watts=300.0))))
    assert found.estimate.value == pytest.approx(300 / 1280, rel=0.01)
    assert found.estimate.low is not None
    assert joules_text(found.estimate) == "0.23"


@pytest.mark.parametrize(("bias", "trusted"), [(0.95, True), (1.08, True), (0.57, False), (1.2, False)])
def test_a_counter_that_disagrees_with_power_is_not_believed(tmp_path: Path, bias: float, trusted: bool) -> None:
    path = trace(tmp_path / "t.jsonl", 200, counter_bias=bias)
    found = joules_per_image(readings(MeteredDevice(path)))
    assert (found.estimate is not None) is trusted
    assert trusted or "the counter says" in found.reason


def test_short_windows_and_missing_counters_are_not_believed(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", 200)
    short = joules_per_image(readings(MeteredDevice(path), seconds=5.0))
    assert short.estimate is None
    assert "30 s are needed" in short.reason
    assert "no energy counter" in joules_per_image(readings(MeteredDevice(path, counters=False))).reason
    assert joules_per_image([]).reason == "not measured"


def test_the_simulated_device_has_a_meter() -> None:
    device = SimDevice(PROFILE, seed=0, scenario=QUIET)
    found = joules_per_image(readings(device))
    assert found.estimate.value == pytest.approx(0.9 * PROFILE.power_w / 1280)


def test_digits_are_two_at_any_size() -> None:
    def text(joules: float) -> str:
        return joules_text(joules_per_image([EnergyReading(joules, joules, 30.0, 1)] * 2).estimate)

    assert [text(value) for value in (0.01234, 0.5, 1.26, 12.4, 123.0)] == ["0.012", "0.50", "1.3", "12", "123"]


def test_a_step_without_time_is_an_error_not_an_endless_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "time_block", lambda *_: (0.0, 0.0))
    with pytest.raises(MeasurementError, match="a step of a takes no measurable time"):
        measure_energy(CpuDevice(), TimedArm("a", lambda: None, 1))
