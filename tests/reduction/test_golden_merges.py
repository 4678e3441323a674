"""Parity with upstream's own merge operations, recorded on the CPU in fp32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import golden_data
import pytest
import torch
from torch import Tensor

from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.matching import match
from rmeeto_bench.reduction.merging import drop, fold, merge_matched, merge_tokens
from rmeeto_bench.reduction.schedule import effective_r
from rmeeto_bench.reduction.vit import merge_vit

CASES = golden_data.text("merge_ops")
K_OF = {"max": 1, "3c": 3, "5c": 5, "7c": 7, "14c": 14, "21c": 21}


def data() -> dict[str, Tensor]:
    return golden_data.tensors("merge_ops", "merge_ops")


def config_of(case: dict[str, Any], r: int) -> ReductionConfig:
    return ReductionConfig(
        r=max(0, r),
        distance=case.get("distance", "cosine"),
        mode=case.get("merge_mode", "sum"),
        choose_k=K_OF[case.get("choose", "max")],
        ordered=case["if_order"],
        unordered_sources="score",
        prune=case["if_prune"],
    )


def ids(group: str) -> list[str]:
    return [case["name"] for case in CASES[group]]


def check(name: str, actual: Tensor, tolerance: float = 1e-5) -> None:
    expected = data()[name]
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("case", CASES["cases"], ids=ids("cases"))
def test_mamba_merge(case: dict[str, Any]) -> None:
    given = f"in/{case['input']}/"
    x, residual = data()[given + "x"], data()[given + "residual"]
    size = torch.ones(*x.shape[:2], 1) if case["size_none"] else data()[given + "size"]
    metric = x if case["metric_tensor"] == "x" else data()[given + "metric"]
    p, config = case["token_position"], config_of(case, case["num_prune"])
    source = torch.eye(x.shape[1]).expand(x.shape[0], -1, -1)
    r = effective_r(x.shape[1], case["num_prune"], protected=1 if case["class_token"] else 0)
    assert r == case["r_effective"]
    if r == 0 or case["class_token"]:
        result = merge_tokens(x, residual, size, p, config, metric=metric, source=source)
        out, position = (result.hidden, result.residual, result.size, result.source), result.cls_position
    else:  # upstream's clamp without a class token; the token at p is kept apart all the same
        matching = match(metric, p, r, config)
        position = matching.cls_position
        if config.prune:
            out = tuple(drop(t, matching) for t in (x, residual, size, source))
        else:
            (hidden, res), new_size = merge_matched((x, residual), size, matching, config.mode)
            out = (hidden, res, new_size, fold(source, matching, "amax"))
    kept_sources = x.shape[1] // 2 - r  # unordered, the class token is never behind these; upstream says so but isn't
    expected = case["new_token_position"]
    assert position == (expected if case["if_order"] or r == 0 else min(expected, kept_sources))
    for what, tensor in zip(("hidden", "residual", "size"), out, strict=False):
        check(f"case/{case['name']}/{what}", tensor)
    if case["has_source"]:
        check(f"case/{case['name']}/source", out[3], 0.0)


@pytest.mark.parametrize("case", CASES["vit_cases"], ids=ids("vit_cases"))
def test_vit_merge(case: dict[str, Any]) -> None:
    given = f"in/{case['input']}/"
    config = config_of(case, case["num_prune"])
    x, size, _ = merge_vit(data()[given + "x"], data()[given + "size"], config, class_token=case["class_token"])
    check(f"vit/{case['name']}/x", x)
    check(f"vit/{case['name']}/size", size)


@pytest.mark.parametrize("case", CASES["chains"], ids=ids("chains"))
def test_chain_of_merges(case: dict[str, Any]) -> None:
    given = f"in/{case['input']}/"
    x, residual = data()[given + "x"], data()[given + "residual"]
    source = torch.eye(x.shape[1]).expand(x.shape[0], -1, -1)
    size, p = torch.ones(*x.shape[:2], 1), case["token_position_in"]
    for r, position, length in zip(case["num_prune"], case["token_positions_out"], case["lengths_out"], strict=True):
        out = merge_tokens(x, residual, size, p, config_of(case, r), source=source)
        x, residual, size, source, p = out.hidden, out.residual, out.size, out.source, out.cls_position
        assert (p, x.shape[1]) == (position, length)
    for what, tensor in (("hidden", x), ("residual", residual), ("size", size), ("source", source)):
        check(f"chain/{case['name']}/{what}", tensor)


@pytest.mark.parametrize("case", CASES["grad_cases"], ids=ids("grad_cases"))
def test_gradient_of_a_merge(case: dict[str, Any]) -> None:
    given = f"in/{case['input']}/"
    x = data()[given + "x"].clone().requires_grad_()
    out = merge_tokens(x, None, data()[given + "size"], case["token_position"], config_of(case, case["num_prune"]))
    check(f"grad/{case['name']}/hidden", out.hidden.detach())
    (gradient,) = torch.autograd.grad((out.hidden * data()[given + "cotangent"]).sum(), x)
    check(f"grad/{case['name']}/x_grad", gradient, 1e-4)


def test_readable_cases_of_two_merges() -> None:
    cases = golden_data.text("merge_cases")
    hidden0, residual0 = torch.tensor(cases["hidden"]), torch.tensor(cases["residual"])
    checked = 0
    for case in cases["cases"]:
        base = ReductionConfig(
            r=case["r"],
            distance=case["distance"],
            mode=case["mode"],
            choose_k=K_OF[case["choose"]],
            ordered=case["order"],
            unordered_sources="score",
            prune=case["prune"],
        )
        hidden, residual, size, p = hidden0, residual0, torch.ones(2, 12, 1), case["cls_pos"]
        for step in case["steps"]:
            if step == "IndexError":  # upstream's k-th choice beyond the destinations; ours is clamped
                break
            out = merge_tokens(hidden, residual, size, p, replace(base))
            hidden, residual, size, p = out.hidden, out.residual, out.size, out.cls_position
            assert p == step["cls_pos"]
            for name, tensor in (("hidden", hidden), ("residual", residual), ("size", size)):
                assert torch.allclose(tensor, torch.tensor(step[name]).view(tensor.shape), atol=1e-5), (case, name)
            checked += 1
    assert checked > 60
