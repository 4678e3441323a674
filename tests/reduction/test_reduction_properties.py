"""What must hold for any merge, whatever the sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction import reference
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.merging import MergeResult, merge_tokens
from rmeeto_bench.reduction.schedule import effective_r


@st.composite
def merges(draw: st.DrawFn, **fixed: object) -> tuple[Tensor, Tensor, Tensor, int, ReductionConfig]:
    length = draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    hidden, residual = (torch.randn(2, length, 5, generator=generator) for _ in range(2))
    size = torch.randint(1, 5, (2, length, 1), generator=generator).float()
    settings_ = {
        "r": draw(st.integers(0, 45)),
        "distance": draw(st.sampled_from(["cosine", "l1", "l2"])),
        "ordered": draw(st.booleans()),
        "unordered_sources": draw(st.sampled_from(["index", "score"])),
        "choose_k": draw(st.sampled_from([1, 3])),
    }
    return hidden, residual, size, draw(st.integers(0, length - 1)), ReductionConfig(**{**settings_, **fixed})


def identity(hidden: Tensor) -> Tensor:
    return torch.eye(hidden.shape[1]).expand(hidden.shape[0], -1, -1)


def run(case: tuple[Tensor, Tensor, Tensor, int, ReductionConfig]) -> MergeResult:
    hidden, residual, size, p, config = case
    return merge_tokens(hidden, residual, size, p, config, source=identity(hidden))


@settings(deadline=None)
@given(merges())
def test_sizes_and_tokens_are_conserved(case) -> None:
    hidden, _, size, p, _ = case
    out = run(case)
    assert torch.allclose(out.size.sum(1), size.sum(1))
    assert torch.equal(out.source.sum(1), torch.ones_like(out.source.sum(1)))
    total = (out.hidden * out.size).sum(1)
    assert torch.allclose(total, (hidden * size).sum(1), atol=1e-4)
    assert torch.equal(out.hidden[:, out.cls_position], hidden[:, p])
    assert torch.equal(out.size[:, out.cls_position], size[:, p])


@settings(deadline=None)
@given(merges())
def test_each_row_is_the_weighted_mean_of_the_tokens_it_holds(case) -> None:
    hidden, residual, size, _, _ = case
    out = run(case)
    weights = out.source * size.transpose(1, 2)
    for stream, merged in ((hidden, out.hidden), (residual, out.residual)):
        assert torch.allclose(weights @ stream / weights.sum(2, keepdim=True), merged, atol=1e-5)


@settings(deadline=None)
@given(merges(ordered=True, cls_position="exact_rank"))
def test_order_is_kept_and_the_exact_class_position_is_its_rank(case) -> None:
    hidden, _, _, p, _ = case
    out = run(case)
    for b in range(2):
        held = out.source[b].argmax(1)  # destinations are odd patches, so the first held token may be a source
        cls_row = out.cls_position if isinstance(out.cls_position, int) else int(out.cls_position[b])
        assert int(held[cls_row]) == p
        patches = torch.cat([torch.arange(p), torch.arange(p + 1, hidden.shape[1])])
        own = []
        for row in range(out.source.shape[1]):
            tokens = out.source[b, row].nonzero().flatten()
            indices = [int((patches == t).nonzero()) for t in tokens if int(t) != p]
            odd = [i for i in indices if i % 2]
            own.append(p if row == cls_row else int(patches[odd[0] if odd else indices[0]]))
        assert own == sorted(own)


@settings(deadline=None)
@given(merges(prune=True))
def test_pruning_never_changes_a_surviving_row(case) -> None:
    hidden, residual, size, _, _ = case
    out = run(case)
    kept = out.source.argmax(2)
    for stream, pruned in ((hidden, out.hidden), (residual, out.residual), (size, out.size)):
        assert torch.equal(pruned, stream.gather(1, kept[..., None].expand(-1, -1, stream.shape[2])))
    assert set(out.source.sum(1).unique().tolist()) <= {0.0, 1.0}


@settings(deadline=None)
@given(merges())
def test_l2_ranks_like_cosine_in_float64(case) -> None:
    hidden, residual, size, p, config = case
    pair = [
        merge_tokens(hidden.double(), residual.double(), size, p, replace(config, distance=distance), source=identity(hidden))
        for distance in ("cosine", "l2")
    ]
    assert torch.equal(pair[0].source, pair[1].source)


@settings(deadline=None)
@given(merges())
def test_samples_do_not_see_each_other(case) -> None:
    hidden, residual, size, p, config = case
    both = run(case)
    for b in range(2):
        one = merge_tokens(hidden[b : b + 1], residual[b : b + 1], size[b : b + 1], p, config)
        assert torch.equal(one.hidden[0], both.hidden[b])
        assert torch.equal(one.residual[0], both.residual[b])


def test_r_zero_returns_the_inputs_themselves() -> None:
    hidden = torch.randn(2, 9, 4)
    out = merge_tokens(hidden, None, None, 4, ReductionConfig(r=0))
    assert out.hidden is hidden
    assert out.size is None


def test_ties_go_to_the_lowest_index() -> None:
    hidden = torch.ones(1, 9, 4)  # every score is equal: patches 0 and 2 merge into patch 1
    source = identity(hidden)
    out = merge_tokens(hidden, None, None, 8, ReductionConfig(r=2), source=source)
    assert out.source[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_zero_rows_do_not_poison_the_matching() -> None:
    hidden = torch.randn(1, 11, 4)
    hidden[:, 3] = 0
    assert merge_tokens(hidden, None, None, 5, ReductionConfig(r=3)).hidden.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["sum", "mean", "amax", "amin"])
def test_half_precision_streams_keep_their_dtype(dtype: torch.dtype, mode: str) -> None:
    hidden, residual = torch.randn(2, 21, 8).to(dtype), torch.randn(2, 21, 8)
    out = merge_tokens(hidden, residual, None, 10, ReductionConfig(r=5, mode=mode))
    exact = merge_tokens(hidden.double(), residual.double(), None, 10, ReductionConfig(r=5, mode=mode))
    assert (out.hidden.dtype, out.residual.dtype, out.size.dtype) == (dtype, torch.float32, torch.float32)
    assert torch.allclose(out.hidden.double(), exact.hidden, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_the_kth_choice_is_clamped_to_the_destinations_there_are() -> None:
    out = merge_tokens(torch.randn(1, 7, 3), None, None, 0, ReductionConfig(r=2, choose_k=21))
    assert out.hidden.shape[1] == 5


@pytest.mark.parametrize("changes", [{}, {"cls_position": "exact_rank"}, {"ordered": False}, {"prune": True}, {"mode": "amax"}])
def test_a_merge_never_waits_for_the_device(changes: dict) -> None:
    """Under fake tensors any read of a value on the host raises."""
    with FakeTensorMode():
        hidden = torch.randn(2, 21, 8)
        out = merge_tokens(hidden, hidden, None, 10, ReductionConfig(r=5, **changes))
        assert out.hidden.shape == (2, 16, 8)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    hidden = torch.randn(2, 9, 4)
    with pytest.raises(UsageError, match="residual must be"):
        merge_tokens(hidden, hidden[:, :5], None, 4, ReductionConfig(r=2))
    with pytest.raises(UsageError, match="size must be"):
        merge_tokens(hidden, None, torch.ones(2, 9), 4, ReductionConfig(r=2))
    with pytest.raises(UsageError, match="metric must begin"):
        merge_tokens(hidden, None, None, 4, ReductionConfig(r=2), metric=hidden[:1])
    with pytest.raises(UsageError, match="hidden must be"):
        merge_tokens(hidden[0], None, None, 4, ReductionConfig(r=2))


@settings(deadline=None)
@given(merges(distance="cosine", ordered=True, choose_k=1))
def test_the_general_code_agrees_with_the_paper_on_one_screen(case) -> None:
    hidden, residual, size, p, config = case
    r = effective_r(hidden.shape[1], config.r)
    out = merge_tokens(hidden, residual, size, p, replace(config, r=r))
    expected = reference.merge(hidden, residual, size, p, r)
    for ours, right in zip((out.hidden, out.residual, out.size), expected):
        assert torch.allclose(ours, right, atol=1e-5)
    assert out.cls_position == expected[3]
