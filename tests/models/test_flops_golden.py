"""FLOPs against the counters of the released code, operation by operation, and against the published arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmeeto_bench.cost.flops import count_flops, gflops_by_convention, operations, published_gflops
from rmeeto_bench.cost.roofline import share_of_peak
from rmeeto_bench.models.sizes import config
from rmeeto_bench.models.vim import VimConfig
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.published import throughput
from rmeeto_bench.reduction.config import PRESETS, ReductionConfig

CASES = json.loads((Path(__file__).parents[1] / "golden" / "flops.json").read_text(encoding="utf-8"))["cases"]
# The released hook counts delta twice as wide; a model without its merge term; and a rule that aims at -23 tokens.
OTHER_RULES = ("metric_delta", "no_merge_method", "r20_compare20")


def reduction_of(arguments: dict) -> ReductionConfig:
    return ReductionConfig(
        r=arguments["num_prune"],
        placement="odd" if arguments.get("if_merge_odd") else "even",
        interval=arguments.get("merge_interval", 2),
        metric=arguments.get("metric", "X"),
        prune=arguments.get("if_prune", False),
        final_tokens=197 - 11 * arguments["compare"],
    )


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith(OTHER_RULES)])
def test_every_count_of_the_released_code_is_met_to_the_operation(name: str) -> None:
    case = CASES[name]
    sizes, reduction = VimConfig(embed_dim=case["embed_dim"]), reduction_of(case["args"])
    analytic = count_flops(sizes, reduction, "analytic")
    assert 1e9 * analytic.total == pytest.approx(case["analytic"], abs=0.5)
    assert 1e9 * analytic.layers == pytest.approx(case["analytic_layers"], abs=0.5)
    if case["hook"]:  # the released hook crashes on the metrics B and C
        hook = count_flops(sizes, reduction, "hook")
        assert 1e9 * hook.total == pytest.approx(case["hook"], abs=0.5)
        assert 1e9 * hook.layers == pytest.approx(case["hook_layers"], abs=0.5)


def test_the_presets_differ_where_the_released_defaults_over_merge() -> None:
    paper, exact = (PRESETS[name](5) for name in ("paper", "upstream_exact"))
    assert round(count_flops(config("vim_tiny"), paper).total, 3) == 1.284
    assert round(count_flops(config("vim_tiny"), exact).total, 3) == 1.245


def test_true_operations_count_multiply_adds_twice_and_both_directions() -> None:
    small = config("vim_small")
    assert operations(small, ReductionConfig()) == pytest.approx(10.76, abs=0.005)
    both = count_flops(small, ReductionConfig(r=11), "bidirectional")
    assert both.total < operations(small, ReductionConfig(r=11)) < 2 * both.total


@pytest.mark.parametrize(
    ("gpu", "share"), [("h100-sxm", 0.021), ("a100-sxm-40", 0.035), ("a4000", 0.056), ("v100", 0.063), ("rtx4090", 0.096)]
)
def test_the_published_rates_are_these_shares_of_the_tensor_peak(gpu: str, share: float) -> None:
    """Worked out by hand from Table 12 and the datasheets, operations being what is really done."""
    profile = next(profile for profile in load_profiles() if profile.name == gpu)
    published = throughput("vim_small", profile.paper_column, 0)
    assert published is not None
    done = operations(config("vim_small"), ReductionConfig())
    assert share_of_peak(published["images_per_second"], done, profile) == pytest.approx(share, abs=0.0006)


def test_all_names_at_once_are_the_single_counts() -> None:
    sizes, reduction = config("vim_base"), ReductionConfig(r=11)
    values = gflops_by_convention(sizes, reduction)
    assert len(values) == 7
    assert values["paper"] == values["hook"] == published_gflops(sizes, reduction)
    assert values["analytic_without_matching"] == count_flops(sizes, reduction, "analytic").layers
