"""Every backend against the reference: outputs and all gradients, odd lengths, tail lanes, strided operands."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.errors import UnavailableError, UsageError
from rmeeto_bench.kernels.add_norm import native as add_norm_native
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import native as conv_native
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import native as merge_native
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.registry import Operands, sample_arguments, select
from rmeeto_bench.kernels.selective_scan import chunked, native, reference, stepwise

FAST_SCANS = {"chunked": chunked.selective_scan, "stepwise": stepwise.selective_scan, "native": native.selective_scan}


def scan_operands(batch: int, length: int, channels: int, states: int, seed: int = 0) -> tuple[list[Tensor], ScanArguments]:
    """Leaves that require gradients, and the arguments made of them: B, C and z are column ranges, as in the model."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int, shift: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) + shift).requires_grad_()

    u, dt = leaf(2, batch, length, channels), leaf(2, batch, length, channels, shift=-3.0)
    A_log, D, bias = leaf(2, channels, states), leaf(2, channels), leaf(2, channels)
    x_dbl, xz = leaf(2, batch, length, 3 + 2 * states), leaf(batch, length, 2 * channels)
    B, C = x_dbl[..., 3:].chunk(2, dim=-1)
    arguments = ScanArguments(u, dt, -A_log.exp(), B, C, D, xz[..., channels:], bias, 0.5)
    return [u, dt, A_log, D, bias, x_dbl, xz], arguments


def outputs_and_gradients(leaves: list[Tensor], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    weights = (torch.arange(out.numel(), dtype=torch.float32).view(out.shape).sin() for out in outputs)
    total = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
    return [*(out.detach() for out in outputs), *torch.autograd.grad(total, leaves, retain_graph=True)]


def assert_close(expected: list[Tensor], actual: list[Tensor], tolerance: float = 2e-5) -> None:
    for i, (a, b) in enumerate(zip(expected, actual, strict=True)):
        error = float(((a - b).norm() / a.norm().clamp(min=1e-12)).detach())
        assert error < tolerance, f"tensor {i} is off by {error:.1e}"


@pytest.mark.parametrize("backend", FAST_SCANS)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(1, 1, 16, 4), (2, 6, 20, 8), (1, 17, 33, 16), (3, 32, 16, 8), (1, 197, 24, 16)],
)
def test_scan_matches_reference_with_all_gradients(backend: str, batch: int, length: int, channels: int, states: int) -> None:
    leaves, arguments = scan_operands(batch, length, channels, states)
    expected = outputs_and_gradients(leaves, (reference.selective_scan(arguments),))
    assert_close(expected, outputs_and_gradients(leaves, (FAST_SCANS[backend](arguments),)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 8, 16]), st.integers(0, 1000))
def test_native_scan_matches_chunked_for_any_shape(batch: int, length: int, channels: int, states: int, seed: int) -> None:
    _, arguments = scan_operands(batch, length, channels, states, seed)
    assert_close([chunked.selective_scan(arguments)], [native.selective_scan(arguments)])


def test_reference_scan_matches_a_float64_recurrence_written_out() -> None:
    _, arguments = scan_operands(1, 5, 3, 4)
    a = replace(
        arguments,
        **{name: getattr(arguments, name).double() for name in ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")},
    )
    total = torch.zeros(5, 3, dtype=torch.float64)
    for direction, order in ((0, range(5)), (1, range(4, -1, -1))):
        for d in range(3):
            h = torch.zeros(4, dtype=torch.float64)
            for t in order:
                delta = torch.log1p(torch.exp(a.dt[direction, 0, t, d] + a.dt_bias[direction, d]))
                h = torch.exp(delta * a.A[direction, d]) * h + delta * a.B[direction, 0, t] * a.u[direction, 0, t, d]
                total[t, d] += (h * a.C[direction, 0, t]).sum() + a.D[direction, d] * a.u[direction, 0, t, d]
    expected = 0.5 * total * a.z[0] * torch.sigmoid(a.z[0])
    assert torch.allclose(reference.selective_scan(a)[0], expected, atol=1e-12)


@pytest.mark.parametrize("shift", [-30.0, 0.0, 19.0, 60.0])
def test_scan_is_finite_and_exact_where_softplus_changes_form(shift: float) -> None:
    _, arguments = scan_operands(1, 9, 16, 8)
    arguments = replace(arguments, dt=arguments.dt.detach() + shift)
    for scan in FAST_SCANS.values():
        assert_close([reference.selective_scan(arguments).detach()], [scan(arguments).detach()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", FAST_SCANS)
def test_half_precision_scan_keeps_an_fp32_recurrence(backend: str, dtype: torch.dtype) -> None:
    _, arguments = scan_operands(2, 50, 16, 16)
    halved = replace(arguments, **{name: getattr(arguments, name).detach().to(dtype) for name in ("u", "dt", "B", "C", "z")})
    out = FAST_SCANS[backend](halved)
    exact = reference.selective_scan(replace(halved, **{n: getattr(halved, n).double() for n in ("u", "dt", "B", "C", "z")}))
    assert out.dtype == dtype
    assert float(((out.double() - exact).norm() / exact.norm()).detach()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 1, 16), (2, 3, 20), (3, 11, 48)])
def test_native_conv_matches_reference_with_all_gradients(batch: int, length: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, length, 2 * channels), (2, channels, 4), (2, channels))
    leaves = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    x, weight, bias = leaves[0][..., :channels], leaves[1], leaves[2]
    expected = outputs_and_gradients(leaves, (conv_reference.causal_conv1d(x, weight, bias),))
    assert_close(expected, outputs_and_gradients(leaves, (conv_native.causal_conv1d(x, weight, bias),)))


def test_conv_directions_mirror_each_other() -> None:
    x, weight = torch.randn(1, 9, 5), torch.randn(1, 5, 4).expand(2, -1, -1)
    out = conv_reference.causal_conv1d(x, weight, torch.zeros(2, 5))
    mirrored = conv_reference.causal_conv1d(x.flip(1), weight, torch.zeros(2, 5))
    assert torch.allclose(out[1], mirrored[0].flip(1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 32, 40])
@pytest.mark.parametrize("first", [True, False])
def test_native_add_norm_matches_reference_with_all_gradients(channels: int, first: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, residual = (torch.randn(3, 7, channels, generator=generator).requires_grad_() for _ in range(2))
    weight = torch.randn(channels, generator=generator).requires_grad_()
    leaves = [hidden, weight] if first else [hidden, residual, weight]
    given_residual = None if first else residual
    expected = outputs_and_gradients(leaves, add_norm_reference.add_norm(hidden, given_residual, weight, 1e-5))
    actual = outputs_and_gradients(leaves, add_norm_native.add_norm(hidden, given_residual, weight, 1e-5))
    assert_close(expected, actual)


def test_auto_prefers_native_on_the_cpu_and_says_why_not_otherwise() -> None:
    assert select("auto", Operands("cpu", 16, 4)).name == "native"
    fallback = select("auto", Operands("cpu", 5, 4))
    assert fallback.name == "stepwise"
    assert "d_state" in fallback.refused["native"]


def test_asking_for_a_backend_that_cannot_run_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="d_state"):
        select("native", Operands("cpu", 5, 4))
    with pytest.raises(UsageError, match="choose auto"):
        select("fastest", Operands("cpu", 16, 4))


def test_sample_arguments_are_the_same_every_time() -> None:
    first, second = sample_arguments("cpu", 8), sample_arguments("cpu", 8)
    assert torch.equal(first.u, second.u)


MERGES = [(1, 3, 8, 1, 0), (2, 4, 8, 1, 2), (2, 6, 5, 3, 5), (1, 20, 40, 9, 10), (3, 35, 33, 17, 17), (2, 197, 48, 20, 98)]


@pytest.mark.parametrize(("batch", "length", "channels", "r", "cls"), MERGES)
@pytest.mark.parametrize("sized", [True, False])
def test_native_merge_matches_the_reference(batch: int, length: int, channels: int, r: int, cls: int, sized: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    hidden, residual = (torch.randn(batch, length, channels, generator=generator) for _ in range(2))
    weight = torch.randn(channels, generator=generator)
    size = torch.randint(1, 4, (batch, length, 1), generator=generator).float() if sized else None
    moved = cls * (length - r) // length
    expected = merge_reference.match(hidden, cls, moved, r)
    plan = merge_native.match(hidden, cls, moved, r)
    for name in ("survivors", "merged", "slots"):
        assert torch.equal(getattr(plan, name), getattr(expected, name)), name
    streams = (hidden, residual)
    found = merge_native.merge_add_norm(streams, size, plan, weight, 1e-5)
    assert_close(list(merge_reference.merge_add_norm(streams, size, expected, weight, 1e-5)), list(found))


def test_native_matching_takes_the_first_of_equals_and_survives_nan() -> None:
    same = torch.ones(2, 20, 8)
    assert torch.equal(merge_native.match(same, 9, 7, 4).merged, merge_reference.match(same, 9, 7, 4).merged)
    broken = torch.randn(1, 20, 8)
    broken[0, 3] = torch.nan
    plan = merge_native.match(broken, 9, 7, 4)
    assert sorted([*plan.survivors[0].tolist(), *plan.merged[0].tolist()]) == list(range(20))


def test_a_float64_model_runs_in_float64() -> None:
    torch.manual_seed(0)
    model = rb.create_model("vim_nano", r=6, depth=3, embed_dim=16, img_size=14).double()
    with torch.inference_mode():
        exact = model(torch.randn(2, 1, 14, 14, dtype=torch.float64))
    assert exact.dtype == torch.float64
    assert bool(exact.isfinite().all())
    assert model.kernels.name == "stepwise"
    assert "fp32" in model.kernels.refused["native"]
    with pytest.raises(UnavailableError, match="float64"):
        select("native", Operands("cpu", 16, 4, float64=True))
