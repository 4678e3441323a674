"""A batch in parts: how many on which card, and that nobody can tell from the answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.parts import parts_for

RTX4090 = SimpleNamespace(major=8, minor=9, multi_processor_count=128, L2_cache_size=72 * 2**20)
H100 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, L2_cache_size=50 * 2**20)
UNKNOWN_CACHE = SimpleNamespace(major=8, minor=9, multi_processor_count=128, L2_cache_size=0)


@pytest.mark.parametrize(
    ("batch", "tokens", "dim", "width", "card", "parts"),
    [
        (128, 197, 384, 2, RTX4090, 2),
        (96, 197, 384, 2, RTX4090, 1),  # 48 images would leave multiprocessors idle
        (512, 197, 384, 2, RTX4090, 8),
        (128, 197, 192, 2, RTX4090, 1),
        (128, 197, 768, 2, RTX4090, 4),
        (128, 1569, 384, 2, RTX4090, 2),  # as many as keep the card busy
        (128, 197, 768, 4, RTX4090, 4),  # eight would fit, but starve the scan
        (1, 197, 384, 2, RTX4090, 1),
        (128, 197, 384, 2, H100, 1),  # the scan's arithmetic binds
        (128, 197, 384, 2, UNKNOWN_CACHE, 1),
    ],
)
def test_a_batch_is_cut_where_its_parts_fit_into_the_cache_and_fill_the_card(
    batch: int, tokens: int, dim: int, width: int, card: SimpleNamespace, parts: int
) -> None:
    assert parts_for(batch, tokens, dim, width, card) == parts


@pytest.mark.parametrize("r", [0, 5])
def test_parts_answer_as_the_whole_batch_does(r: int) -> None:
    torch.manual_seed(0)
    model = rb.create_model("vim_nano", r=r, depth=4).eval().double()
    images = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    with torch.inference_mode():
        whole = model(images)
        for parts in (2, 5):
            torch.testing.assert_close(GraphedForward(model)._in_parts(images, parts), whole, rtol=1e-12, atol=1e-12)
