"""What the ablations draw, and that each leaves the rest of the method alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import Ablation, ReductionConfig
from rmeeto_bench.reduction.grouping import group, shuffle_patches, shuffled_rows
from rmeeto_bench.reduction.merging import MergeResult, merge_tokens

DRAWS = [
    {"grouping": "random"},
    {"sources": "random"},
    {"destinations": "random"},
    {"sources": "random", "destinations": "random"},
    {"grouping": "front_behind"},
]


def merge(hidden: Tensor, r: int, ablation: Ablation, **changes: object) -> MergeResult:
    source = torch.eye(hidden.shape[1]).expand(hidden.shape[0], -1, -1)
    return merge_tokens(
        hidden, None, None, hidden.shape[1] // 2, ReductionConfig(r=r, ablation=ablation, **changes), source=source
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(5, 30), st.integers(0, 2**31), st.sampled_from(DRAWS), st.booleans())
def test_tokens_are_conserved_and_equal_seeds_give_equal_merges(length: int, seed: int, draws: dict, ordered: bool) -> None:
    hidden = torch.randn(3, length, 4)
    ablation = Ablation(seed=seed, **draws)
    first, second = (merge(hidden, 2, ablation, ordered=ordered) for _ in range(2))
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.source.sum(1), torch.ones(3, length))
    assert torch.allclose(first.size.sum(1), torch.full((3, 1), float(length)))
    assert torch.allclose((first.hidden * first.size).sum(1), hidden.sum(1), atol=1e-4)
    assert torch.equal(first.hidden[:, first.cls_position], hidden[:, length // 2])


def test_front_behind_merges_the_first_half_into_the_second() -> None:
    hidden = torch.randn(2, 21, 4)
    out = merge(hidden, 5, Ablation(grouping="front_behind"))
    patches = torch.cat([out.source[:, :, :10], out.source[:, :, 11:]], dim=2)
    gone = patches.argmax(1)  # the output row of every patch
    for b in range(2):
        merged = [p for p in range(20) if int(out.source[b, gone[b, p]].sum()) > 1 and p < 10]
        assert len(merged) >= 5
        assert int(patches[b, :, 10:].sum(1).max()) == 1  # no two destinations ever meet


def test_random_sources_differ_between_images_and_seeds() -> None:
    hidden = torch.randn(1, 41, 4).expand(8, -1, -1)
    one = merge(hidden, 5, Ablation(sources="random", seed=1)).source
    other = merge(hidden, 5, Ablation(sources="random", seed=2)).source
    assert not all(torch.equal(one[0], one[b]) for b in range(8))
    assert not torch.equal(one, other)


def test_a_random_pair_keeps_the_sources_that_would_have_merged() -> None:
    hidden = torch.randn(2, 41, 4)
    plain, drawn = (
        merge(hidden, 5, ablation, prune=True).source.sum(1) for ablation in (Ablation(), Ablation(destinations="random"))
    )
    assert torch.equal(plain, drawn)


def test_groups_are_halves() -> None:
    for grouping in ("odd_even", "front_behind", "random"):
        groups = group(4, 9, Ablation(grouping=grouping), torch.Generator().manual_seed(0), torch.device("cpu"))
        both = torch.cat([groups.sources, groups.destinations], dim=1).sort(1).values
        assert torch.equal(both, torch.arange(9).expand(4, -1))
        assert groups.sources.shape == (4, 5)


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 1000))
def test_a_shuffle_is_a_permutation_of_its_share(patches: int, ratio: float, seed: int) -> None:
    rows = shuffled_rows(patches, ratio, torch.Generator().manual_seed(seed))
    assert torch.equal(rows.sort().values, torch.arange(patches))
    assert int((rows != torch.arange(patches)).sum()) <= int(patches * ratio)


def test_shuffling_spares_the_class_token_and_treats_all_streams_alike() -> None:
    x = torch.arange(22.0).view(1, 11, 2).expand(3, -1, -1)
    a, none, b = shuffle_patches((x, None, x + 100), 5, 1.0, torch.Generator().manual_seed(3))
    assert none is None
    assert torch.equal(a + 100, b)
    assert torch.equal(a[:, 5], x[:, 5])
    assert torch.equal(a[0], a[2])
    assert not torch.equal(a, x)


@torch.inference_mode()
def test_a_model_draws_anew_in_every_block_and_the_same_in_every_forward() -> None:
    torch.manual_seed(0)
    reductions = [ReductionConfig(r=11, ablation=Ablation(shuffle=0.5, seed=seed)) for seed in (0, 0, 1)]
    model = rb.create_model("vim_nano", depth=8, embed_dim=16)
    images, found = torch.randn(2, 1, 28, 28), []
    for reduction in reductions:
        model.set_reduction(reduction)
        found.append(model(images))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    seeds = {config.ablation.seed for config in model._merges.values()}
    assert len(seeds) == 3


def test_bad_ablations_are_refused() -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Ablation(shuffle=1.5)
    with pytest.raises(UsageError, match="odd_even, front_behind, random"):
        Ablation(grouping="checkerboard")
    with pytest.raises(UsageError, match="one class position"):
        ReductionConfig(r=3, cls_position="exact_rank", ablation=Ablation(shuffle=0.5))
