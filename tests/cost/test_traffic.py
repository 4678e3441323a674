"""Limits of merged models against an independent roofline, and the rules that any count of work obeys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmeeto_bench.cost.flops import count_flops
from rmeeto_bench.cost.roofline import TUNED, limit
from rmeeto_bench.cost.traffic import model_operations
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.models.vim import VimConfig
from rmeeto_bench.profiles import GpuProfile, load_profiles
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import token_counts

BATCH = 128
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "roofline.json").read_text(encoding="utf-8"))
PROFILES = {profile.name: profile for profile in load_profiles()}


def limits(model: str, profile: GpuProfile, r: int) -> tuple[float, float, float]:
    """(limit, overlapped, tuned) in images/s at batch 128."""
    sized, reduction = config(model), ReductionConfig(r=r)
    ideal = limit(model_operations(sized, reduction, BATCH, "ideal"), profile)
    tuned = limit(model_operations(sized, reduction, BATCH, "fused"), profile, TUNED)
    return BATCH / ideal.seconds, BATCH / ideal.overlapped, BATCH / tuned.seconds


@pytest.mark.parametrize("model", ["vim_tiny", "vim_small", "vim_base"])
@pytest.mark.parametrize("gpu", ["v100", "rtx3090", "rtx4090", "a4000", "a100-sxm-40", "h100-sxm", "h200"])
def test_limits_agree_with_an_independent_roofline(model: str, gpu: str) -> None:
    rows = [row for row in GOLDEN["rows"] if row[:2] == [model, gpu]]
    assert len(rows) == 7
    for _, _, r, *expected in rows:
        assert limits(model, PROFILES[gpu], r) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("cut", ["ideal", "fused"])
@pytest.mark.parametrize("r", [0, 5, 20])
def test_tensor_work_is_twice_the_multiply_adds_of_the_flop_count(cut: str, r: int) -> None:
    """Only projections, embedding, head and similarity run there; ideal kernels work dt out on fp32 lanes."""
    sized, reduction = config("vim_small"), ReductionConfig(r=r)
    kernels = model_operations(sized, reduction, 1, cut)
    work = sum(kernel.tensor_operations for kernel in kernels if kernel.name != "match")
    tokens = sum(token_counts(reduction))
    C, D, R, N = 384, 768, 24, 16
    per_token = 3 * C * D + 2 * D * (R + 2 * N) + (2 * D * R if cut == "fused" else 0)
    assert work == pytest.approx(2 * (tokens * per_token + 196 * 768 * C + C * 1000))
    rest = 2 * tokens * (9 * D * N + 2 * D) + 2 * sum((length + 3) * D * 4 for length in token_counts(reduction))
    rest += 0 if cut == "fused" else 2 * tokens * D * R
    assert work / 2 + rest == pytest.approx(1e9 * count_flops(sized, reduction, "bidirectional").layers)


def test_fewer_tokens_are_less_work_of_every_kind() -> None:
    sized = config("vim_small")
    for cut in ("ideal", "fused"):
        kernels = [model_operations(sized, ReductionConfig(r=r), BATCH, cut) for r in (5, 11, 20)]
        for kind in ("dram_bytes", "tensor_operations", "fp32_operations", "special_functions", "warp_instructions"):
            sums = [sum(getattr(kernel, kind) for kernel in of_r) for of_r in kernels]
            assert sums[0] > sums[1] > sums[2] > 0


def test_sizes_of_a_model_enter_its_traffic() -> None:
    plain = sum(kernel.dram_bytes for kernel in model_operations(VimConfig(), ReductionConfig(), 1))
    for change in ({"depth": 12}, {"d_state": 8}, {"num_classes": 10}, {"in_chans": 1}, {"img_size": 112}):
        assert sum(k.dram_bytes for k in model_operations(VimConfig(**change), ReductionConfig(), 1)) < plain


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UsageError, match="ideal or fused"):
        model_operations(VimConfig(), ReductionConfig(), 1, "perfect")
    with pytest.raises(UsageError, match="knows Vim and VideoMamba"):
        model_operations(object(), ReductionConfig(), 1)  # type: ignore[arg-type]
