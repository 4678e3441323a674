"""Triton kernels without a GPU: their results under the interpreter, their registers and spills from a real compile.

The interpreter has to be chosen before the kernels are imported, so conftest.py sets TRITON_INTERPRET for the whole
suite; what a GPU makes of them is the business of benchmarks/gpu_check.py. The compile runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import golden_data
import pytest
import static_model
import torch
from kernel_fuzz import matching_problems
from test_kernel_parity import assert_close, outputs_and_gradients, scan_operands

import rmeeto_bench as rb
from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.registry import Operands, _select, select, self_test
from rmeeto_bench.kernels.selective_scan import reference
from rmeeto_bench.reduction.merging import merge_tokens

pytest.importorskip("triton", reason="this torch came without triton")
from rmeeto_bench.kernels.add_norm import triton as add_norm_triton
from rmeeto_bench.kernels.causal_conv1d import triton as conv_triton
from rmeeto_bench.kernels.merge import triton as merge_triton
from rmeeto_bench.kernels.selective_scan import triton as scan_triton


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [
        (1, 1, 16, 4),
        (1, 2, 70, 16),
        (2, 3, 20, 8),
        (1, 4, 65, 16),
        (1, 5, 64, 8),
        (3, 6, 33, 16),
        (1, 49, 8, 16),
        (129, 3, 4, 4),
    ],
)
def test_scan_matches_reference_with_all_gradients(batch: int, length: int, channels: int, states: int) -> None:
    leaves, arguments = scan_operands(batch, length, channels, states)
    expected = outputs_and_gradients(leaves, (reference.selective_scan(arguments),))
    assert_close(expected, outputs_and_gradients(leaves, (scan_triton.selective_scan(arguments),)))


def test_scan_gradients_in_half_precision_have_its_digits_and_repeat_to_the_bit() -> None:
    _, arguments = scan_operands(2, 19, 40, 16)
    half = {n: getattr(arguments, n).detach().half() for n in ("u", "dt", "B", "C", "z")}
    fixed = {n: getattr(arguments, n).detach() for n in ("A", "D", "dt_bias")}

    def gradients(scan: Callable[[ScanArguments], torch.Tensor], double: bool) -> dict[str, torch.Tensor]:
        values = {n: (t.double() if double else t).clone().requires_grad_() for n, t in {**half, **fixed}.items()}
        out = scan(replace(arguments, **values))
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
        return dict(zip(values, torch.autograd.grad((out * weights.to(out.dtype)).sum(), list(values.values()))))

    exact, found, again = (
        gradients(scan, double)
        for scan, double in (
            (reference.selective_scan, True),
            (scan_triton.selective_scan, False),
            (scan_triton.selective_scan, False),
        )
    )
    for name, gradient in found.items():
        assert gradient.dtype == (torch.float16 if name in half else torch.float32), name
        assert float((gradient.double() - exact[name]).norm() / exact[name].norm()) < 4 * torch.finfo(torch.float16).eps, name
        assert torch.equal(gradient, again[name]), name


@pytest.mark.parametrize("shape", scan_triton.SHAPES)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "states", "dtype"),
    [
        (1, 1, 4, 4, torch.float32),
        (2, 2, 40, 8, torch.float16),
        (1, 7, 33, 16, torch.bfloat16),
        (1, 6, 9, 16, torch.float16),
    ],
)
def test_every_launch_shape_gives_the_same_scan(
    monkeypatch: pytest.MonkeyPatch,
    shape: scan_triton.LaunchShape,
    batch: int,
    length: int,
    channels: int,
    states: int,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(scan_triton, "launch_shape", lambda *_: shape)
    _, arguments = scan_operands(batch, length, channels, states)
    x_dbl = torch.cat([torch.zeros(2, batch, length, 2), arguments.B, arguments.C], dim=-1).detach().to(dtype)
    B, C = x_dbl[..., 2:].chunk(2, dim=-1)  # rows at a multiple of 4 bytes, as the model's
    arguments = replace(arguments, B=B, C=C, **{n: getattr(arguments, n).detach().to(dtype) for n in ("u", "dt", "z")})
    with torch.no_grad():
        expected = reference.selective_scan(
            replace(arguments, **{n: getattr(arguments, n).float() for n in ("u", "dt", "B", "C", "z")})
        )
        assert_close([expected], [scan_triton.selective_scan(arguments).float()], max(2e-5, 2 * torch.finfo(dtype).eps))


def test_the_scan_does_not_overflow_where_the_gated_halves_are_finite() -> None:
    _, arguments = scan_operands(1, 3, 4, 4)
    half = {n: getattr(arguments, n).detach().half() for n in ("u", "dt", "B", "C", "z")}
    half["u"][:] = 6e4
    half["z"][:] = -12.0  # silu(-12) is -7e-5
    arguments = replace(arguments, D=arguments.D.detach().abs() + 2, **half)
    with torch.no_grad():
        out = scan_triton.selective_scan(arguments)
    assert torch.isfinite(out).all()


def test_small_batches_take_both_directions_at_once_and_no_card_a_second_wave_for_little() -> None:
    shapes = {batch: scan_triton.launch_shape(batch, 768, 132, 32) for batch in (1, 32, 64, 128)}
    assert [shape.pair for shape in shapes.values()] == [True, True, True, False]
    assert [shape.channels for shape in shapes.values()] == [1, 1, 2, 2]


@pytest.mark.parametrize("shift", [-30.0, -5.0, 0.0, 19.0, 60.0])
def test_scan_keeps_its_digits_where_softplus_changes_form(shift: float) -> None:
    _, arguments = scan_operands(1, 5, 16, 8)
    arguments = replace(arguments, dt=arguments.dt.detach() + shift)
    with torch.no_grad():
        assert_close([reference.selective_scan(arguments)], [scan_triton.selective_scan(arguments)])


def test_scan_in_half_precision_keeps_an_fp32_recurrence() -> None:
    _, arguments = scan_operands(1, 30, 16, 16)
    half = replace(arguments, **{n: getattr(arguments, n).detach().half() for n in ("u", "dt", "B", "C", "z")})
    exact = reference.selective_scan(replace(half, **{n: getattr(half, n).double() for n in ("u", "dt", "B", "C", "z")}))
    out = scan_triton.selective_scan(half)
    assert out.dtype == torch.float16
    assert float(((out.double() - exact).norm() / exact.norm()).detach()) < 2 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize(
    ("batch", "length", "channels"), [(1, 1, 16), (2, 3, 20), (1, 8, 130), (2, 19, 40), (1, 33, 8), (129, 3, 4)]
)
def test_conv_matches_reference_with_all_gradients(batch: int, length: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, length, 2 * channels), (2, channels, 4), (2, channels))
    leaves = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    x, weight, bias = leaves[0][..., :channels], leaves[1], leaves[2]
    expected = outputs_and_gradients(leaves, (conv_reference.causal_conv1d(x, weight, bias),))
    assert_close(expected, outputs_and_gradients(leaves, (conv_triton.causal_conv1d(x, weight, bias),)))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 1, 5), (2, 5, 40), (129, 3, 4)])
def test_add_norm_matches_reference_with_all_gradients(batch: int, length: int, channels: int, first: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, residual = (torch.randn(batch, length, channels, generator=generator).requires_grad_() for _ in range(2))
    weight = torch.randn(channels, generator=generator).requires_grad_()
    leaves = [hidden, weight] if first else [hidden, residual, weight]
    operands = (hidden, None if first else residual, weight, 1e-5)
    expected = outputs_and_gradients(leaves, add_norm_reference.add_norm(*operands))
    assert_close(expected, outputs_and_gradients(leaves, add_norm_triton.add_norm(*operands)))


MERGES = [
    (129, 5, 4, 1, 2),
    (1, 3, 8, 1, 0),
    (2, 4, 8, 1, 2),
    (2, 6, 5, 3, 5),
    (1, 20, 40, 9, 10),
    (3, 35, 33, 17, 17),
    (1, 197, 48, 20, 98),
]


@pytest.mark.parametrize(("batch", "length", "channels", "r", "cls"), MERGES)
@pytest.mark.parametrize("sized", [True, False])
def test_merge_kernels_match_the_reference_and_the_method(
    batch: int, length: int, channels: int, r: int, cls: int, sized: bool
) -> None:
    generator = torch.Generator().manual_seed(length)
    hidden, residual = (torch.randn(batch, length, channels, generator=generator) for _ in range(2))
    weight = torch.randn(channels, generator=generator)
    size = torch.randint(1, 4, (batch, length, 1), generator=generator).float() if sized else None
    method = merge_tokens(hidden, residual, size, cls, rb.ReductionConfig(r=r))
    assert isinstance(method.cls_position, int)
    removed = length - method.hidden.shape[1]
    expected = merge_reference.match(hidden, cls, method.cls_position, removed)
    plan = merge_triton.match(hidden, cls, method.cls_position, removed)
    for name in ("survivors", "merged", "slots"):
        assert torch.equal(getattr(plan, name), getattr(expected, name)), name
    wanted = merge_reference.merge_add_norm((hidden, residual), size, expected, weight, 1e-5)
    found = merge_triton.merge_add_norm((hidden, residual), size, plan, weight, 1e-5)
    assert_close(list(wanted), list(found))
    assert method.residual is not None
    assert method.size is not None
    assert_close([method.hidden + method.residual, method.size], list(found[1:]))


def fusible(case: dict[str, Any]) -> bool:
    """Whether the merge kernels serve a recorded merge that the interpreter does in a second."""
    usual = {"distance": "cosine", "merge_mode": "sum", "choose": "max", "if_prune": False, "if_order": True}
    given = {**usual, **{name: case[name] for name in usual if name in case}}
    return given == usual and case["class_token"] and case["metric_tensor"] == "x" and 0 < case["r_effective"] < 70


GOLDEN = [case for case in golden_data.text("merge_ops")["cases"] if fusible(case)]


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_the_kernels_merge_as_upstream_did(case: dict[str, Any]) -> None:
    data = golden_data.tensors("merge_ops", "merge_ops")
    hidden, residual = (data[f"in/{case['input']}/{name}"] for name in ("x", "residual"))
    size = None if case["size_none"] else data[f"in/{case['input']}/size"]
    plan = merge_triton.match(hidden, case["token_position"], case["new_token_position"], case["r_effective"])
    _, total, new_size = merge_triton.merge_add_norm((hidden, residual), size, plan, torch.ones(hidden.shape[2]), 1e-5)
    recorded = {name: data[f"case/{case['name']}/{name}"] for name in ("hidden", "residual", "size")}
    assert torch.allclose(total, recorded["hidden"] + recorded["residual"], atol=2e-5)
    assert torch.equal(new_size, recorded["size"])


@pytest.mark.parametrize(
    ("length", "dtype", "tiles"), [(131, torch.float16, 2), (133, torch.float32, 3), (261, torch.float32, 5)]
)
def test_matching_goes_over_as_many_tiles_as_an_image_needs(length: int, dtype: torch.dtype, tiles: int) -> None:
    assert -(-(length // 2) // merge_triton.product_tile(dtype.itemsize, (8, 0))) == tiles
    metric = torch.randn(2, length, 6, generator=torch.Generator().manual_seed(length)).to(dtype)
    plan = merge_triton.match(metric, length // 3, length // 4, length // 5)
    assert matching_problems(plan, metric, (length // 3, length // 4), length // 5) == []
    same = metric.clone()
    same[:] = 1  # ties go to the lowest index across the tiles, too
    expected = merge_reference.match(same, length // 3, length // 4, length // 5)
    plan = merge_triton.match(same, length // 3, length // 4, length // 5)
    for name in ("survivors", "merged", "slots"):
        assert torch.equal(getattr(plan, name), getattr(expected, name)), name


def test_ties_and_nan_never_choose_more_than_r() -> None:
    same = torch.ones(2, 20, 8)
    expected = merge_reference.match(same, 9, 7, 4)
    plan = merge_triton.match(same, 9, 7, 4)
    assert torch.equal(plan.merged, expected.merged)
    broken = torch.randn(1, 20, 8)
    broken[0, 3] = torch.nan
    plan = merge_triton.match(broken, 9, 7, 4)
    assert sorted([*plan.survivors[0].tolist(), *plan.merged[0].tolist()]) == list(range(20))


def test_the_backend_serves_a_whole_model_with_fused_merging() -> None:
    torch.manual_seed(0)
    sizes = {"depth": 5, "embed_dim": 16, "img_size": 28, "patch_size": 4, "in_chans": 1, "num_classes": 10, "d_state": 8}
    model = rb.create_model("vim_nano", r=6, backend="triton", **sizes)
    plain = rb.create_model("vim_nano", r=6, backend="reference", **sizes)
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 28, 28)
    with torch.inference_mode():
        assert torch.allclose(model(images), plain(images), atol=1e-5)
    assert model.merge_path == "fused"
    assert model.token_counts() == plain.token_counts() == model.planned_token_counts()
    model.set_reduction(rb.ReductionConfig(r=6, distance="l2"))
    assert "distance=l2" in model.merge_path
    assert "no merge kernels" in plain.merge_path


def test_the_self_test_covers_the_merge() -> None:
    kernels = select("triton", Operands("cpu", 8, 4))
    assert kernels.merge is not None

    def late(metric: torch.Tensor, cls_position: int, moved: int, r: int) -> MergePlan:
        plan = merge_triton.match(metric, cls_position, moved, r)
        return replace(plan, slots=plan.slots.flip(1))

    with pytest.raises(UnavailableError, match="merge's norm is off"):
        self_test(replace(kernels, merge=replace(kernels.merge, match=late)), Operands("cpu", 8, 4))


def test_training_runs_through_the_backend() -> None:
    sizes = {"depth": 3, "embed_dim": 16, "img_size": 14, "d_state": 8}
    models = [rb.create_model("vim_nano", r=4, backend=backend, **sizes) for backend in ("triton", "reference")]
    models[1].load_state_dict(models[0].state_dict())
    images = torch.randn(1, 1, 14, 14)
    for model in models:
        model(images).square().sum().backward()
    gradients = [[p.grad for p in model.parameters() if p.grad is not None] for model in models]
    assert_close(gradients[1], gradients[0], tolerance=1e-4)


def test_without_a_gpu_or_the_interpreter_the_backend_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    _select.cache_clear()  # as in a process of its own: another test may have chosen these kernels with the interpreter
    with pytest.raises(UnavailableError, match="CUDA"):
        select("triton", Operands("cpu", 16, 4))


def test_operations_are_visible_to_export() -> None:
    names = [name for name in dir(torch.ops.rmeeto_bench) if not name.startswith("_")]
    assert {"selective_scan", "causal_conv1d", "add_norm", "match", "merge_add_norm", "selective_scan_backward"} <= set(names)
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(2, 3, 5, 16)
        rates, bias = torch.empty(2, 16, 8), torch.empty(2, 16)
        out = torch.ops.rmeeto_bench.selective_scan(
            fake, fake, rates, torch.empty(2, 3, 5, 16), bias, torch.empty(3, 5, 16), bias, 0.5
        )
    assert out.shape == (3, 5, 16)


REGISTERS = {  # of a thread, for Vim-S in half precision
    "scan_kernel": 144,
    "scan_backward_kernel": 168,
    "conv_kernel": 64,
    "add_norm_kernel": 64,
    "nearest_kernel": 208,
    "plan_kernel": 168,
    "merge_add_norm_kernel": 64,
}
SECONDS = 30  # of processor time for one compile: a first forward compiles about ten kernels


def test_every_launch_compiles_for_real_gpus_within_its_budget() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert [entry for entry in report if "error" in entry] == []
    assert {entry["kernel"] for entry in report} == set(REGISTERS)
    for entry in report:
        assert entry["stack"] == 0, entry
        assert entry["seconds"] <= SECONDS, entry
        assert not entry["paper"] or entry["registers"] <= REGISTERS[entry["kernel"]], entry
    stored = json.loads(static_model.STORED.read_text())
    found = static_model.table(report)
    assert set(found) == set(stored["kernels"])
    assert {entry["card"] for entry in report if entry["paper"]} == {70, 75, 80, 86, 89, 90, 100, 120}
    if stored["triton"] == version("triton"):  # another compiler writes other code
        hint = "if it is worth it, run python tests/kernels/compile_kernels.py --write"
        assert static_model.worse(stored["kernels"], found) == [], hint


def test_the_static_gate_names_what_became_worse() -> None:
    stored = json.loads(static_model.STORED.read_text())["kernels"]
    assert static_model.worse(stored, stored) == []
    scan = "scan: scan_kernel, warps=1"
    for name in ("registers", "instructions", "looped", "cycles"):
        value = stored["sm_90"][scan][name]
        slower = {"sm_90": {scan: {**stored["sm_90"][scan], name: round(1.04 * value + 1)}}}
        assert static_model.worse(stored, slower) == [f"sm_90 {scan}: {name} {value} became {round(1.04 * value + 1)}"]
    assert static_model.worse(stored, {"sm_90": {"other": {"cycles": 1}}}) == ["sm_90 other is not stored"]
