"""Telemetry from replayed NVML traces: what is read, what it makes of a round, and the process that samples."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measure.replay import Line, ReplayNvml, ReplayPoller, trace

from rmeeto_bench.measure.devices.nvml import NvmlTelemetry, foreign, summarise
from rmeeto_bench.measure.devices.poller import Poller, sample
from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.devices.telemetry import rejection
from rmeeto_bench.measure.protocol import RoundsResult
from rmeeto_bench.measure.rounds import DEFAULT, TimedArm, Watch, measure
from rmeeto_bench.measure.statistics import complete_rounds
from rmeeto_bench.measure.verdict import judge, labels
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import Block

PROFILE = next(profile for profile in load_profiles() if profile.name == "h100-sxm")
LONG = replace(DEFAULT, min_rounds=16, max_rounds=16, warmup_limit=60.0)  # as many rounds as the episodes of the traces need
QUIET = Scenario(ar_sd=0.0, idiosyncratic_sd=0.0005)


class ReplayedDevice(SimDevice):
    """Simulated times, and telemetry from a trace that runs on the same virtual clock."""

    def __init__(self, path: Path, **nvml: Any) -> None:
        super().__init__(PROFILE, seed=0, scenario=QUIET)
        self.nvml = ReplayNvml(path, self.clock, **nvml)

    def telemetry(self) -> NvmlTelemetry:  # type: ignore[override]
        return NvmlTelemetry("x", nvml=self.nvml, poller=ReplayPoller(self.nvml))  # type: ignore[arg-type]


def measured(path: Path, **nvml: Any) -> tuple[RoundsResult, list[Block], ReplayedDevice]:
    device = ReplayedDevice(path, **nvml)
    arms = [TimedArm(name, device.step(name, seconds), 8) for name, seconds in (("a", 0.1), ("b", 0.08))]
    blocks: list[Block] = []
    return measure(device, arms, "a", LONG, Watch(blocks.append)), blocks, device


@pytest.mark.parametrize("nvml", [{}, {"old": True}, {"counters": False}])
def test_exactly_the_rounds_with_faults_are_dropped_and_measured_again(tmp_path: Path, nvml: dict) -> None:
    faults = [(32.0, 33.0, {"reasons": 0x40, "sm_mhz": 1200}), (41.3, 43.0, {"reasons": 0x28, "sm_mhz": 1200})]
    result, blocks, device = measured(trace(tmp_path / "t.jsonl", 400, episodes=faults), **nvml)
    start, surely, maybe = result.warmup_seconds, set(), set()
    for block in blocks:
        end = start + block.wall_seconds
        overlap = max(min(end, until) - max(start, since) for since, until, _ in faults)
        if overlap > 0.25:  # a block that a sample at 5 Hz must have hit
            surely.add(block.round)
        if overlap > 0:
            maybe.add(block.round)
        start = end
    dropped = {block.round for block in blocks if block.rejected_reason}
    assert len(surely) >= 2
    assert surely <= dropped <= maybe
    assert result.rejected == {"THROTTLED": len(dropped)}
    (session,) = complete_rounds(blocks, ["a", "b"])
    assert len(session["a"]) == result.rounds == 16
    assert judge(result, LONG) == "VALID"
    assert device.nvml.open == 0


@pytest.mark.parametrize(
    ("changes", "verdict", "label"),
    [
        ({}, "VALID", ()),
        ({"reasons": 0x1}, "VALID", ()),
        ({"reasons": 0x4, "sm_mhz": 1700}, "VALID", ("POWER_LIMITED",)),
        ({"reasons": 0x4 | 0x80}, "THROTTLED", ()),
        ({"reasons": 0x8}, "THROTTLED", ()),
        ({"reasons": 0x20}, "THROTTLED", ()),
        ({"reasons": 0x40}, "THROTTLED", ()),
        ({"pids": [os.getpid(), 4242]}, "CONTENDED", ()),
        ({"pids": [11, 12]}, "CONTENDED", ()),  # a container, where our own number is not the host's
        ({"pids": [11]}, "VALID", ()),
        ({"pids": []}, "VALID", ()),
    ],
)
def test_a_trace_decides_the_verdict(tmp_path: Path, changes: Line, verdict: str, label: tuple[str, ...]) -> None:
    path = trace(tmp_path / "t.jsonl", 400, episodes=[(0.0, 1e9, changes)])
    result, blocks, _ = measured(path)
    assert judge(result, LONG) == verdict
    assert labels(result) == label
    assert blocks


def test_a_clock_that_moves_is_labelled_unlocked(tmp_path: Path) -> None:
    slower = [(float(t), t + 4.0, {"sm_mhz": 1965}) for t in range(40, 400, 8)]
    result, _, _ = measured(trace(tmp_path / "t.jsonl", 400, episodes=slower))
    assert labels(result) == ("UNLOCKED",)


def test_a_fault_between_two_samples_is_seen_by_the_counter() -> None:
    assert rejection({"reasons": 0, "violation_thermal_ns": 40_000_000}) == ("THROTTLED", "thermal violation, 40 ms")
    assert rejection({"reasons": 0, "violation_thermal_ns": 1_000}) is None
    assert rejection({"reasons": 0x4, "violation_power_ns": 900_000_000}) is None


def test_one_of_the_processes_is_this_one() -> None:
    assert foreign([7, 3, 9], own=7) == [3, 9]
    assert foreign([7], own=7) == foreign([3], own=7) == foreign([], own=7) == []


def test_samples_become_one_line() -> None:
    samples = [
        {"time": 0.0, "sm_mhz": 1900, "power_mw": 300_000, "temperature_c": 50, "reasons": 0x1, "pids": None},
        {"time": 0.2, "sm_mhz": 1800, "power_mw": None, "temperature_c": 51, "reasons": 0x4, "pids": [1, 5]},
    ]
    assert summarise(samples, own_pid=1) == {
        "samples": 2,
        "sm_mhz_mean": 1850,
        "sm_mhz_min": 1800,
        "temperature_c": 51,
        "power_w": 300.0,
        "reasons": 5,
        "foreign_pids": [5],
    }
    assert summarise([], own_pid=1) == {"samples": 0}


class NoDriver:
    """A machine without NVIDIA's library."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        raise self.NVMLError("NVML Shared Library Not Found")


def test_without_a_driver_the_allocator_is_still_watched() -> None:
    reserved = iter([100, 164])
    telemetry = NvmlTelemetry("x", reserved=lambda: next(reserved), nvml=NoDriver())
    telemetry.before_block()
    assert telemetry.after_block() == {"unavailable": "NVML Shared Library Not Found", "reserved_delta_bytes": 64}
    telemetry.close()


SERVE = """
import sys; sys.path[:0] = {path!r}
import os, time
from pathlib import Path
from measure.replay import ReplayNvml
from rmeeto_bench.measure.devices.poller import sample, serve
start = time.monotonic()
nvml = ReplayNvml(Path({trace!r}), lambda: time.monotonic() - start)
with os.fdopen(0, "rb", buffering=0) as source:
    serve(source, sys.stdout, lambda now: sample(nvml, "GPU-x", now))
"""


@pytest.fixture
def poller(tmp_path: Path) -> Poller:
    path = trace(tmp_path / "t.jsonl", 60, episodes=[(0.0, 60.0, {"pids": list(range(100))})])
    code = SERVE.format(path=[str(Path(__file__).parents[1]), *sys.path], trace=str(path))
    return Poller("GPU-x", command=[sys.executable, "-c", code])


def test_another_process_samples_between_start_and_stop(poller: Poller) -> None:
    poller.start()
    time.sleep(0.7)
    first = poller.stop()
    time.sleep(0.5)  # nothing is sampled between blocks
    poller.start()
    second = poller.stop()
    poller.close()
    assert {entry["sm_mhz"] for entry in first} == {1980}
    assert len(first[0]["pids"]) == 100
    assert 1 <= len(second) <= 2
    assert second[0]["time"] - first[-1]["time"] > 0.4


def test_a_sampling_process_that_ended_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    nvml = ReplayNvml(trace(tmp_path / "t.jsonl", 1), lambda: 0.0)
    dead = Poller("GPU-x", command=[sys.executable, "-c", ""])
    telemetry = NvmlTelemetry("x", nvml=nvml, poller=dead)
    for _ in range(2):
        telemetry.before_block()
        seen = telemetry.after_block()
        assert seen["unavailable"] == "the process that samples NVML ended"
        assert seen["violation_thermal_ns"] == 0
    telemetry.close()


def test_the_sampling_process_ends_with_its_parent(poller: Poller) -> None:
    process = poller._process
    process.stdin.close()  # as when the parent is killed
    assert process.wait(10) == 0


def test_the_sampling_process_loads_no_torch() -> None:
    import subprocess

    code = "import sys, rmeeto_bench.measure.devices.poller; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_driver_that_does_not_tell_leaves_none(tmp_path: Path) -> None:
    nvml = ReplayNvml(trace(tmp_path / "t.jsonl", 1), lambda: 0.0)

    def refuse(_: str) -> int:
        raise nvml.NVMLError("Not Supported")

    nvml.nvmlDeviceGetPowerUsage = refuse  # type: ignore[method-assign]
    found = sample(nvml, "GPU-x", 0.0)
    assert found["power_mw"] is None
    assert found["sm_mhz"] == 1980
