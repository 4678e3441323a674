"""The roofline's arithmetic on made-up GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmeeto_bench.cost.roofline import DATASHEET, UNITS, Efficiency, Operation, limit, share_of_peak
from rmeeto_bench.errors import UsageError
from rmeeto_bench.profiles import load_profiles

H100 = next(profile for profile in load_profiles() if profile.name == "h100-sxm")
# One second of work for each unit of a GPU with round rates.
ROUND = replace(
    H100, multiprocessors=10, boost_mhz=1000, fp16_tflops=100.0, fp32_tflops=10.0, sfu_per_clock=16, bandwidth_gbs=1000.0
)
SECOND = {
    "bandwidth": Operation("copy", 1e12),
    "tensor cores": Operation("gemm", 0.0, tensor_operations=1e14),
    "fp32": Operation("add", 0.0, fp32_operations=5e12),
    "exp (SFU)": Operation("exp", 0.0, special_functions=1.6e11),
    "issue": Operation("scan", 0.0, warp_instructions=4e10),
}


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_can_be_the_limit(unit: str) -> None:
    found = limit([SECOND[unit]], ROUND)
    assert found.seconds == pytest.approx(1.0)
    assert found.bound == unit
    assert found.images_per_second(128) == pytest.approx(128)


def test_operations_follow_each_other_unless_overlapped() -> None:
    found = limit(list(SECOND.values()), ROUND)
    assert found.seconds == pytest.approx(5.0)
    assert found.overlapped == pytest.approx(1.0)
    assert found.launches == 5


def test_inside_an_operation_the_busiest_unit_decides() -> None:
    both = Operation("gemm", 2e12, tensor_operations=1e14)
    found = limit([both], ROUND)
    assert (found.seconds, found.bound) == (pytest.approx(2.0), "bandwidth")


def test_starting_kernels_bounds_what_is_too_short() -> None:
    short = [Operation("copy", 1e3)] * 10
    assert limit(short, ROUND).bound == "launch"
    assert limit(short, ROUND).seconds == pytest.approx(1e-8)  # the limit itself is without it
    assert limit(short, ROUND, Efficiency(launch_seconds=1e-3)).seconds == pytest.approx(1e-2, rel=1e-4)


@given(st.floats(0.1, 1.0))
def test_a_rate_that_is_not_reached_takes_longer(part: float) -> None:
    for unit, field in zip(UNITS, ("bandwidth", "tensor", "fp32", "special", "issue"), strict=True):
        slowed = limit([SECOND[unit]], ROUND, replace(DATASHEET, **{field: part}))
        assert slowed.seconds == pytest.approx(1 / part)


def test_shares_of_the_peak_depend_on_the_convention() -> None:
    """The paper's H100 row: 1954 images/s of Vim-S, 5.077 G as it counts and 10.76 G as is done, of 989.4 TFLOP/s."""
    assert share_of_peak(1954, 5.077, H100) == pytest.approx(0.01003, abs=1e-5)
    assert share_of_peak(1954, 10.764, H100) == pytest.approx(0.0213, abs=1e-4)


def test_a_device_without_rates_has_no_limit() -> None:
    cpu = next(profile for profile in load_profiles() if profile.name == "cpu")
    with pytest.raises(UsageError, match="profile cpu has no rates"):
        limit([SECOND["fp32"]], cpu)
