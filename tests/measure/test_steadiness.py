"""What changes the same way in every process: heat, trends and jumps. What comes and goes raises no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from rmeeto_bench.measure.steadiness import still_warming, unsteady
from rmeeto_bench.measure.warmup import heat_holds, relation_holds

ROUNDS = 8


def sessions(change: np.ndarray | float, *, felt: float = 1.0, seed: int = 11, count: int = 6) -> list[dict[str, np.ndarray]]:
    """Seconds of three arms: all are slower by `change` (of each round, or [sessions, rounds]), arm `b` by its share."""
    generator = np.random.default_rng(seed)
    common = np.broadcast_to(change, (count, ROUNDS))
    return [
        {
            name: np.exp(share * row + generator.normal(0, 0.002, ROUNDS))
            for name, share in (("a", 1.0), ("b", felt), ("c", 1.0))
        }
        for row in common
    ]


RAMP = np.linspace(0, 0.02, ROUNDS)
MOOD = 0.2 * (np.arange(6 * ROUNDS).reshape(6, ROUNDS) * 7 % 5 < 2)  # comes and goes within the processes


@pytest.mark.parametrize("change", [RAMP, 0.02 * (np.arange(ROUNDS) >= 5)])
def test_what_an_arm_feels_differently_is_seen_and_what_all_feel_alike_is_not(change: np.ndarray) -> None:
    assert unsteady(sessions(change, felt=0.5), "a", "b") == "the speed-up drifted within the processes"
    assert unsteady(sessions(change), "a", "b") is None
    assert unsteady(sessions(change, felt=0.5), "a", "a") is None  # the baseline itself


def test_what_comes_and_goes_is_left_to_the_interval() -> None:
    assert unsteady(sessions(MOOD, felt=0.9), "a", "b") is None


def test_too_few_rounds_show_nothing() -> None:
    short = [{name: rounds[:5] for name, rounds in one.items()} for one in sessions(RAMP, felt=0.0)]
    assert unsteady(short, "a", "b") is None


def test_a_device_that_still_warms_is_not_at_one_temperature() -> None:
    assert still_warming([np.full(16, 70.0), np.full(16, 72.0)]) is None
    assert still_warming([np.full(16, 66.0), np.full(16, 70.0)]) == "the temperature differed by 4 K between the processes"
    assert still_warming([np.linspace(66, 69, 16)] * 2) == "the temperature rose by 2.2 K within the processes"
    assert still_warming([[70.0] * 3]) is None
    assert still_warming([]) is None


def test_arms_that_move_apart_show_heat_and_a_machine_that_slows_down_does_not() -> None:
    generator = np.random.default_rng(3)
    moments = [float(t) for t in range(1, 241)]
    cooling = 0.04 * np.exp(-np.array(moments) / 600)
    noise = generator.normal(0, 0.002, (240, 3))
    assert relation_holds(moments, (noise - cooling[:, None]).tolist(), 240.0)
    assert not relation_holds(moments, (noise - np.outer(cooling, [1.0, 1.0, 0.5])).tolist(), 240.0)
    assert relation_holds(moments, noise[:, :1].tolist(), 240.0)  # one arm has no relation
    assert not relation_holds(moments[:3], noise[:3].tolist(), 240.0)  # too few to tell
    assert relation_holds(moments[:9], noise[:9].tolist(), 2.0)  # slow arms: five cycles, however long they take


def heated(kelvin: float, constant: float, until: int) -> tuple[list[float], list[dict[str, float]]]:
    """A cycle a second on a device that warms from 35 degrees; the driver tells whole degrees."""
    moments = [float(t) for t in range(1, until)]
    return moments, [{"temperature_c": round(35 + kelvin * (1 - np.exp(-t / constant)))} for t in moments]


@pytest.mark.parametrize("constant", [10.0, 30.0, 60.0])
def test_a_cold_device_is_warmed_until_a_twentieth_of_its_heat_is_missing(constant: float) -> None:
    ends = next(t for t in range(10, 600) if heat_holds(*heated(30.0, constant, t)))
    assert np.exp(-ends / constant) < 0.05
    assert ends < 300


def test_slow_heat_does_not_pass_and_a_warm_device_does_after_a_short_look() -> None:
    assert not any(heat_holds(*heated(30.0, 240.0, t)) for t in range(20, 300, 10))
    assert next(t for t in range(5, 100) if heat_holds(*heated(0.0, 1.0, t))) < 25
    assert heat_holds([1.0, 2.0], [{}, {}])  # no temperature is known
