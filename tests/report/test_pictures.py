"""The pictures of merged tokens: who is in which group, and what a group looks like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.models.token_sources import trace
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.report.figures.pictures import DROPPED, beside, group_map, merged_pictures


def source(groups: list[int], rows: int) -> np.ndarray:
    found = np.zeros((rows, len(groups)))
    found[groups, range(len(groups))] = 1
    return found


@pytest.mark.parametrize("place", [0, 2, 4])
def test_the_class_column_is_dropped_where_it_is(place: int) -> None:
    patches = [1, 1, 2, 3]
    columns = [*patches[:place], 0, *patches[place:]]
    assert group_map(source(columns, 4), place).tolist() == [[[1, 1], [2, 3]]]


def test_a_patch_that_nobody_holds_is_dropped() -> None:
    held = source([0, 1, 1, 2, 3], 4)
    held[:, 4] = 0
    assert group_map(held, 0)[0, 1, 1] == DROPPED


def test_a_group_has_its_mean_colour_and_a_lone_token_stays_a_photograph() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (320, 320, 3)).astype(np.uint8)
    groups = np.array([[[1, 1], [2, 3]]])
    (drawn,) = merged_pictures([frame], groups)
    assert np.array_equal(drawn[162:, 2:158], frame[162:, 2:158])
    inside = slice(10, 150)
    mean = frame[:160].reshape(-1, 3).mean(0)
    expected = 0.8 * mean + 0.2 * frame[inside, inside]
    assert np.abs(drawn[inside, inside] - expected).max() <= 1
    assert not np.array_equal(drawn[159, 10:300], drawn[150, 10:300])  # the outline
    assert np.abs(drawn[50, 150:170].astype(float) - (0.8 * mean + 0.2 * frame[50, 150:170])).max() <= 1  # none inside a group


def test_a_tubelet_spans_its_frames_with_one_colour() -> None:
    frames = [np.full((32, 32, 3), value, np.uint8) for value in (10, 30, 50, 70)]
    groups = np.array([[[5, 5], [5, 5]], [[5, 5], [5, 5]]])
    drawn = merged_pictures(frames, groups)
    assert [picture[16, 16, 0] for picture in drawn] == [34, 38, 42, 46]  # 0.8 of the common mean 40, 0.2 of their own


def test_pictures_stand_side_by_side() -> None:
    assert beside([np.zeros((4, 5, 3), np.uint8)] * 3, gap=2).shape == (4, 19, 3)


@pytest.mark.parametrize(("name", "sizes"), [
    ("vim_nano", {"depth": 8}),
    ("videomamba_tiny", {"depth": 8, "embed_dim": 16, "img_size": 96}),
    ("videomamba_tiny_k400_f8", {"depth": 8, "embed_dim": 16, "img_size": 64}),
    ("deit_tiny", {"depth": 4, "embed_dim": 24, "img_size": 96}),
])  # fmt: skip
def test_traced_groups_partition_the_patches(name: str, sizes: dict) -> None:
    torch.manual_seed(0)
    model = rb.create_model(name, reduction=ReductionConfig(r=4), **sizes)
    stages = trace(model, torch.randn(1, *model.config.input_shape))
    assert [stage.tokens for stage in stages] == [model.config.num_tokens - 4 * (i + 1) for i in range(len(stages))]
    groups = group_map(stages[-1].source, model.config.cls_position, getattr(model.config, "steps", 1))
    assert groups.size == model.config.num_patches
    assert len(np.unique(groups)) == stages[-1].tokens - 1
    cls_row = stages[-1].source[:, model.config.cls_position].argmax()
    assert cls_row not in groups
