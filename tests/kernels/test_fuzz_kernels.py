"""Every backend on random shapes, layouts and extremes against float64, outputs and gradients.

The number of cases is fixed; `pytest tests/kernels/test_fuzz_kernels.py --fuzz 50` tries 50 times as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_fuzz import (
    DTYPES,
    LENGTHS,
    WIDTHS,
    Draw,
    conv_case,
    error,
    matching_problems,
    merged_exactly,
    norm_case,
    results,
    scan_case,
    wrong,
)

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.add_norm import native as norm_native
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import native as conv_native
from rmeeto_bench.kernels.merge import native as merge_native
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.native import library as loader
from rmeeto_bench.kernels.registry import sample_arguments
from rmeeto_bench.kernels.selective_scan import chunked, native, stepwise
from rmeeto_bench.kernels.selective_scan.aligned import scan_directions, scan_through

try:
    from rmeeto_bench.kernels.add_norm import triton as norm_triton
    from rmeeto_bench.kernels.causal_conv1d import triton as conv_triton
    from rmeeto_bench.kernels.merge import triton as merge_triton
    from rmeeto_bench.kernels.selective_scan import triton as scan_triton
except ImportError:  # this torch came without triton
    norm_triton = conv_triton = merge_triton = scan_triton = None

SETS = loader._processor_sets()


def everywhere(kernel: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The native kernel by each instruction set of this processor."""

    def by(isa: str) -> Callable[..., Any]:
        def run(*operands: Any, **named: Any) -> Any:
            with loader.using(isa):
                return kernel(*operands, **named)

        return run

    return {f"native {isa}": by(isa) for isa in SETS}


def with_triton(kernel: Any, name: str) -> dict[str, Callable[..., Any]]:
    return {} if kernel is None else {"triton": getattr(kernel, name)}


def directions_added(a: ScanArguments) -> torch.Tensor:
    """The aligned scan without gaps, of which the plain one is the scaled sum; its directions must not be rounded."""
    wide = a.promoted()
    return (wide.scale * scan_directions(wide).sum(0)).to(a.u.dtype)


def through(a: ScanArguments) -> torch.Tensor:
    """The aligned scan by way of the native one, without gaps."""
    return scan_through(native.selective_scan, a, torch.ones(2, *a.u.shape[1:3]))


SCANS = {
    **everywhere(native.selective_scan),
    "chunked": chunked.selective_scan,
    "stepwise": stepwise.selective_scan,
    "aligned": directions_added,
    "aligned through native": through,
    **with_triton(scan_triton, "selective_scan"),
}
CONVS = {**everywhere(conv_native.causal_conv1d), **with_triton(conv_triton, "causal_conv1d")}
NORMS = {**everywhere(norm_native.add_norm), **with_triton(norm_triton, "add_norm")}
MATCHES = {**everywhere(merge_native.match), "reference": merge_reference.match, **with_triton(merge_triton, "match")}
MERGES = {**everywhere(merge_native.merge_add_norm), **with_triton(merge_triton, "merge_add_norm")}
MERGES |= {"reference": merge_reference.merge_add_norm}
SLOW = ("triton",)  # interpreted


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz"))


def try_all(kernel: Callable[..., Any], case: Callable[[Draw], Any], count: int, first: int) -> None:
    problems = []
    for number in range(first, first + count):
        draw = Draw(number)
        operands, over, right = case(draw)
        how = {"gradients": number % 2 == 0 and kernel is not through}  # which takes sums apart that cancel in the gradients
        plain = results(right, operands, number, double=False, **how)
        exact = results(right, operands, number, double=True, **how)
        found = results(over(kernel), operands, number, double=False, **how)
        problems += [f"case {number} ({', '.join(draw.said)}): {problem}" for problem in wrong(found, plain, exact)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", SCANS)
def test_scan(name: str, times: int) -> None:
    try_all(SCANS[name], scan_case, times * (10 if name in SLOW else 30), 0)


@pytest.mark.parametrize("name", CONVS)
def test_convolution(name: str, times: int) -> None:
    try_all(CONVS[name], conv_case, times * (15 if name in SLOW else 60), 10_000)


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, times: int) -> None:
    try_all(NORMS[name], norm_case, times * (15 if name in SLOW else 60), 20_000)


@pytest.mark.parametrize("name", MATCHES)
def test_matching(name: str, times: int) -> None:
    problems = []
    for number in range(30_000, 30_000 + times * (15 if name in SLOW else 60)):
        draw = Draw(number)
        length = draw.choices.randint(3, 40)
        dtypes = DTYPES[:-1] if name in SLOW else DTYPES  # the interpreter multiplies the bits of bf16 matrices
        metric = draw.tensor("metric", draw.choices.randint(1, 3), length, draw.one("F", WIDTHS), dtype=draw.one("", dtypes))
        r = draw.choices.randint(1, min(length // 2, length - 2))
        cls, moved = draw.choices.randrange(length), draw.choices.randrange(length - r)
        if bool(metric.isfinite().all()) or name != "reference":  # of what is no number the reference says nothing
            found = matching_problems(MATCHES[name](metric, cls, moved, r), metric, (cls, moved), r)
            problems += [f"case {number} ({length} tokens, r {r}, {', '.join(draw.said)}): {problem}" for problem in found]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", MERGES)
def test_merging(name: str, times: int) -> None:
    problems = []
    for number in range(40_000, 40_000 + times * (15 if name in SLOW else 60)):
        draw = Draw(number)
        batch, length = draw.choices.randint(1, 3), 2 + draw.one("L", LENGTHS)
        shape, dtype = (batch, length, draw.one("C", WIDTHS)), draw.one("", DTYPES)
        streams = draw.tensor("h", *shape, dtype=dtype, plain=True), draw.tensor("r", *shape, plain=True)
        size = draw.one("size", (None, 1)) and 1 + draw.tensor("size", batch, length, 1, plain=True).abs()
        r = draw.choices.randint(1, min(length // 2, length - 2))
        plan = merge_reference.match(
            torch.randn(batch, length, 5, generator=draw.generator), 1, draw.choices.randrange(length - r), r
        )
        weight = draw.tensor("weight", shape[2], plain=True)
        exact = merged_exactly(streams, size, plan, weight)
        found = MERGES[name](streams, size, plan, weight, 1e-5)
        assert found[0].dtype == dtype
        for part, mine, right in zip(("normed", "residual", "size"), found, exact):
            allowed = 2e-5 + (2 * torch.finfo(mine.dtype).eps if mine.dtype != torch.float32 else 0)
            if not error(mine, right, right.isfinite()) <= allowed:
                problems.append(f"case {number} ({length} tokens, r {r}, {', '.join(draw.said)}): {part}")
    assert not problems, "\n".join(problems)


@pytest.mark.skipif(scan_triton is None, reason="this torch came without triton")
def test_what_triton_does_not_serve_is_refused() -> None:
    x, few = torch.randn(2, 6, 20), sample_arguments("cpu", 5)
    for refused in (
        lambda: scan_triton.selective_scan(few),
        lambda: scan_triton.selective_scan(ScanArguments(**{**vars(few), "u": few.u.double()})),
        lambda: conv_triton.causal_conv1d(x, torch.randn(2, 20, 3), torch.randn(2, 20)),
        lambda: conv_triton.causal_conv1d(x.double(), torch.randn(2, 20, 4), torch.randn(2, 20)),
        lambda: norm_triton.add_norm(x.double(), None, torch.randn(20), 1e-5),
        lambda: merge_triton.match(x, 0, 0, 4),
    ):
        with pytest.raises(UsageError):
            refused()
