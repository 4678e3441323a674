"""The native kernels of every instruction set: against float64, at the edges of fp32, and refusing what they cannot read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.add_norm import native as add_norm_native
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import native as conv_native
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import native as merge_native
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.native import library as loader
from rmeeto_bench.kernels.registry import sample_arguments, scan_gradients
from rmeeto_bench.kernels.selective_scan import chunked, native, reference, stepwise

SETS = loader._processor_sets()


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with loader.using(request.param):
        yield request.param


def as_double(arguments: ScanArguments) -> ScanArguments:
    tensors = [item.name for item in fields(arguments) if isinstance(getattr(arguments, item.name), Tensor)]
    return replace(arguments, **{name: getattr(arguments, name).double() for name in tensors})


def off(found: Tensor, right: Tensor) -> float:
    return float(((found.double() - right.double()).norm() / right.double().norm().clamp(min=1e-30)).detach())


@pytest.mark.parametrize("dt", [-60.0, -40.0, -20.0, -15.0, -7.0, 0.0, 7.0, 19.9, 20.1, 60.0])
def test_the_gradient_of_dt_is_right_where_delta_is_small_or_large(isa: str, dt: float) -> None:
    base = sample_arguments("cpu", 16, length=19)
    arguments = replace(base, dt=dt + 0.1 * base.dt, dt_bias=0 * base.dt_bias)
    right = scan_gradients(reference.selective_scan, as_double(arguments))
    for scan in (native.selective_scan, chunked.selective_scan, stepwise.selective_scan):
        found = scan_gradients(scan, arguments)
        for name in ("dt", "u", "dt_bias", "B", "C", "D", "z"):
            assert off(found[name], right[name]) < 1e-5, (scan.__module__, name)


def strided(tensor: Tensor, how: int) -> Tensor:
    """The same values, laid out in another way."""
    if how == 0:
        return tensor
    if how == 1:  # a column range of something wider
        wide = tensor.new_empty(*tensor.shape[:-1], tensor.shape[-1] + 5)
        wide[..., 3:-2] = tensor
        return wide[..., 3:-2]
    if how == 2:  # the first dimensions exchanged in memory
        return tensor.transpose(0, -2).contiguous().transpose(0, -2)
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 40), st.sampled_from([4, 8, 16])),
    st.sampled_from([1e-3, 1.0, 30.0]),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.sampled_from(SETS),
    st.integers(0, 9999),
)
def test_scan_of_any_shape_layout_and_size_agrees_with_float64(
    shape: tuple[int, int, int, int], scale: float, layouts: list[int], isa: str, seed: int
) -> None:
    batch, length, channels, states = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*wanted: int, how: int = 0, size: float = 1.0) -> Tensor:
        return strided(size * torch.randn(*wanted, generator=generator), how)

    row = (2, batch, length)
    arguments = ScanArguments(
        u=draw(*row, channels, how=layouts[0], size=scale),
        dt=draw(*row, channels, how=layouts[1], size=scale),
        A=-draw(2, channels, states).exp(),
        B=draw(*row, states, how=layouts[2]),
        C=draw(*row, states, how=layouts[3]),
        D=draw(2, channels),
        z=draw(batch, length, channels, how=layouts[4], size=scale),
        dt_bias=draw(2, channels),
        scale=0.5,
    )
    exact = as_double(arguments)
    with loader.using(isa):
        assert off(native.selective_scan(arguments), reference.selective_scan(exact)) < 1e-5
        found, right = scan_gradients(native.selective_scan, arguments), scan_gradients(reference.selective_scan, exact)
    for name in right:
        assert off(found[name], right[name]) < 1e-4, name


def layouts_of_one_token() -> Iterator[Tensor]:
    yield torch.randn(1, 3, 16).transpose(0, 1)
    yield torch.randn(3, 1, 16).as_strided((3, 1, 16), (16, 1, 1))
    yield torch.randn(1, 1, 16).as_strided((1, 1, 16), (7, 3, 1))
    yield torch.randn(2, 5, 1).as_strided((2, 5, 1), (5, 1, 77))


def test_strides_of_size_one_dimensions_mean_nothing(isa: str) -> None:
    for x in layouts_of_one_token():
        weight, bias = torch.randn(2, x.shape[2], 4), torch.randn(2, x.shape[2])
        assert off(conv_native.causal_conv1d(x, weight, bias), conv_reference.causal_conv1d(x, weight, bias)) < 1e-5
        weight = torch.randn(x.shape[2])
        found, right = (module.add_norm(x, x, weight, 1e-5)[0] for module in (add_norm_native, add_norm_reference))
        assert off(found, right) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_operands_of_the_small_kernels(isa: str, dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 9, 24).to(dtype), torch.randn(2, 24, 4)
    exact = conv_reference.causal_conv1d(x.double(), weight.double(), weight[..., 0].double())
    found = conv_native.causal_conv1d(x, weight, weight[..., 0])
    assert found.dtype == dtype
    assert off(found, exact) < max(1e-6, torch.finfo(dtype).eps)
    found = add_norm_native.add_norm(x, x.float(), weight[0, :, 0], 1e-5)[0]
    assert found.dtype == dtype
    exact = add_norm_reference.add_norm(x.double(), x.double(), weight[0, :, 0].double(), 1e-5)[0]
    assert off(found, exact) < max(1e-6, torch.finfo(dtype).eps)


GOOD = sample_arguments("cpu", 8)
X, TAPS, ROW = torch.randn(2, 6, 20), torch.randn(2, 20, 4), torch.randn(20)
PLAN = merge_native.match(X, 2, 1, 2)
REFUSED: dict[str, Callable[[], object]] = {
    "float64 scan": lambda: native.selective_scan(as_double(GOOD)),
    "five states": lambda: native.selective_scan(sample_arguments("cpu", 5)),
    "short B": lambda: native.selective_scan(replace(GOOD, B=GOOD.B[:, :, 1:])),
    "narrow z": lambda: native.selective_scan(replace(GOOD, z=GOOD.z[..., 1:])),
    "one bias": lambda: native.selective_scan(replace(GOOD, dt_bias=GOOD.dt_bias[0])),
    "float64 convolution": lambda: conv_native.causal_conv1d(X.double(), TAPS.double(), TAPS[..., 0].double()),
    "three taps": lambda: conv_native.causal_conv1d(X, TAPS[..., 1:], TAPS[..., 0]),
    "other channels": lambda: conv_native.causal_conv1d(X[..., 1:], TAPS, TAPS[..., 0]),
    "whole numbers": lambda: add_norm_native.add_norm(X.long(), X, ROW, 1e-5),
    "other residual": lambda: add_norm_native.add_norm(X, X[:, 1:], ROW, 1e-5),
    "short weight": lambda: add_norm_native.add_norm(X, X, ROW[1:], 1e-5),
    "meta tensor": lambda: add_norm_native.add_norm(X.to("meta"), None, ROW, 1e-5),
    "r beyond the sources": lambda: merge_native.match(X, 2, 1, 4),
    "no such class token": lambda: merge_native.match(X, 6, 1, 1),
    "a plan of other images": lambda: merge_native.merge_add_norm((X[:1], X[:1]), None, PLAN, ROW, 1e-5),
    "a plan out of range": lambda: merge_native.merge_add_norm(
        (X, X), None, MergePlan(PLAN.survivors + 5, PLAN.merged, PLAN.slots, 1), ROW, 1e-5
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_kernel_cannot_read_is_an_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        REFUSED[name]()
    assert "\n" not in str(caught.value)


def test_a_compiled_model_that_never_ran_has_the_fast_kernels() -> None:
    loaded = rb.create_model("vim_nano", r=5, depth=2).eval()
    images = torch.randn(1, 1, 28, 28)
    with torch.no_grad():
        right = loaded(images)
        from rmeeto_bench.kernels.registry import _select

        _select.cache_clear()  # as in a process of its own
        cold = rb.create_model("vim_nano", r=5, depth=2).eval()
        cold.load_state_dict(loaded.state_dict())
        found = torch.compile(cold, backend="eager")(images)
    assert cold.kernels_name == "native"
    assert torch.equal(found, right)


def test_threads_and_forks_give_the_same_numbers() -> None:
    threads = torch.get_num_threads()
    arguments = sample_arguments("cpu", 16, length=40)
    right = native.selective_scan(arguments)
    try:
        for count in (1, 2, 3, 17):  # beyond the cores, too
            torch.set_num_threads(count)
            assert torch.equal(native.selective_scan(arguments), right)
        torch.set_num_threads(2)
        native.selective_scan(arguments)  # torch's pool exists when the process forks, and does not in the child
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(native.selective_scan(arguments), right) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)


def test_models_in_two_threads_of_one_process_do_not_disturb_each_other() -> None:
    models = [rb.create_model("vim_nano", r=r, depth=2).eval() for r in (0, 5)]
    images = torch.randn(2, *models[0].config.input_shape)
    with torch.inference_mode():
        right = [model(images) for model in models]

    @torch.inference_mode()
    def often(index: int) -> bool:
        return all(torch.equal(models[index](images), right[index]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(often, [0, 1, 0, 1]))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinities")
def test_a_process_bound_to_one_core_has_one_thread_and_the_same_numbers(tmp_path: Path) -> None:
    """As under taskset: bound before torch starts."""
    arguments = sample_arguments("cpu", 16, length=40)
    torch.save(native.selective_scan(arguments), tmp_path / "right.pt")
    code = (
        "import torch; from rmeeto_bench.kernels.registry import sample_arguments; "
        "from rmeeto_bench.kernels.selective_scan import native; assert torch.get_num_threads() == 1; "
        "found = native.selective_scan(sample_arguments('cpu', 16, length=40)); "
        "assert torch.equal(found, torch.load('right.pt', weights_only=True))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    core = min(os.sched_getaffinity(0))
    line = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}}); {code}"]
    subprocess.run(line, check=True, cwd=tmp_path, env=environment)
