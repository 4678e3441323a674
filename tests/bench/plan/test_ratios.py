"""`--ratios` and `--r` as typed."""

import pytest

from rmeeto_bench.bench.plan.plan import BenchPlan, cells
from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs
from rmeeto_bench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,0.14,...,0.54", (0, 0.14, 0.28, 0.31, 0.42, 0.54)),
        ("0,...,0.54", (0, 0.14, 0.28, 0.31, 0.42, 0.54)),
        ("0,0.14,…,0.54", (0, 0.14, 0.28, 0.31, 0.42, 0.54)),
        ("0, .14, ... , .36, .54", (0, 0.14, 0.28, 0.31, 0.36, 0.54)),
        ("0,0.1,...,0.5", (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        ("0.31", (0.31,)),
        ("0,0,0.14", (0, 0.14)),
    ],
)
def test_lists_and_the_literal_dots(text: str, expected: tuple[float, ...]) -> None:
    assert parse_ratios(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a", "0,,1", "1", "-0.1", "nan", "...", "0,...", "...,0.5", "0.3,...,0.5", "0.5,...,0.1", "0,0.2,...,0.55", "0,...,x"],
)
def test_malformed_lists_are_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="ratio"):
        parse_ratios(text)


def test_r_list() -> None:
    assert parse_rs("0,5,5,11") == (0, 5, 11)
    for text in ("", "1.5", "-1", "a"):
        with pytest.raises(UsageError, match="--r"):
            parse_rs(text)


def test_the_baseline_is_always_measured_and_ratios_keep_their_names() -> None:
    found = cells(BenchPlan(ratios=(0.54, 0.3)), "vim_nano")
    assert [(cell.r, cell.ratio_requested) for cell in found] == [(0, 0.0), (11, 0.3), (20, 0.54)]
    assert cells(BenchPlan(rs=(7,)), "vim_tiny")[1].r == 7


@pytest.mark.parametrize(
    "changes", [{"precision": "int8"}, {"batch_size": 0}, {"images": -1}, {"models": ("resnet",)}, {"preset": "slow"}]
)
def test_bad_plans_are_refused(changes: dict) -> None:
    with pytest.raises(UsageError):
        BenchPlan(**changes)
