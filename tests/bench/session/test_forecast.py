"""A run says at its start how long it will take, from its first blocks."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from rmeeto_bench.bench.session.forecast import Forecast, forecast
from rmeeto_bench.measure.protocol import DEFAULT, QUICK, RIGOROUS, blind_seconds
from rmeeto_bench.records.run import Block


def block(arm: str, seconds: float, round_number: int = 0, device: str = "cpu") -> Block:
    return Block(device, 0, round_number, 0, arm, 1, 10, seconds, seconds)


def test_the_time_is_told_once_from_the_first_block_of_each_arm() -> None:
    kept: list[Block] = []
    told: list[str] = []
    # eight rounds of 3 s after 6 s of building and 8 s of start-up, six times; 8 s and 1,000 images at 0.3 s
    watched = Forecast(DEFAULT, 2, 1000, kept.append, told.append, began=time.monotonic() - 9.0)
    watched.add_block(block("a", 1.0))
    assert not told
    watched.add_block(block("b", 2.0))
    watched.add_block(block("a", 1.0, 1))
    assert [len(kept), len(told)] == [3, 1]
    assert told[0].startswith(
        "timing and accuracy will take about 9 min on this device: 6 processes of 38 s and 5 min of accuracy"
    )


def test_single_steps_at_batch_1_are_in_the_time() -> None:
    for latencies, says in ((False, "one process of 10 s"), (True, "one process of 16 s")):
        told: list[str] = []
        watched = Forecast(QUICK, 1, 0, lambda _: None, told.append, began=time.monotonic() - 0.3, latencies=latencies)
        watched.add_block(Block("cpu", 0, 0, 0, "a", 10, 10, 0.3, 0.3))  # 200 of 30 ms take 6 s
        assert says in told[0], told


def test_the_long_warm_up_of_a_first_process_that_knows_no_temperature_is_told_once() -> None:
    told: list[str] = []
    protocol = replace(DEFAULT, blind_seconds=blind_seconds(DEFAULT, "cuda", 0.0))
    watched = Forecast(protocol, 1, 0, lambda _: None, told.append, began=time.monotonic() - 250.0)
    watched.add_block(block("a", 1.0, device="cuda:a"))
    assert told[0].startswith("timing will take about 10 min on this device: 6 processes of 70 s, 3 min to warm up a device")
    first, later = (blind_seconds(DEFAULT, "cuda", worked) for worked in (0.0, math.inf))
    assert later < 60 < first == blind_seconds(RIGOROUS, "cpu", 0.0)
    assert not blind_seconds(QUICK, "cuda", 0.0)
    assert 0 < blind_seconds(DEFAULT, "cpu", math.inf) < blind_seconds(DEFAULT, "cpu", 0.0) < first
    assert blind_seconds(DEFAULT, "cuda", 100.0) == first - 100


def test_only_a_run_that_takes_longer_than_promised_is_called_so() -> None:
    assert "longer" not in forecast(DEFAULT, 60.0, 120.0)
    assert "That is longer than the 8 min that the default preset promises" in forecast(DEFAULT, 90.0, 120.0)
    assert forecast(DEFAULT, 90.0, 120.0).endswith("; fewer --ratios or fewer --images or --quick would help")
    assert forecast(QUICK, 600.0, 0.0).endswith("; fewer --ratios would help"), "no images, so not fewer of them"
    assert "--quick" not in forecast(QUICK, 300.0, 0.0)
