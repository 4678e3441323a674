"""What of CUDA graphs can be seen without a GPU: everything that cannot be captured runs eagerly."""

from __future__ import annotations

import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.models.graphs import GraphedForward


def test_on_a_cpu_the_model_itself_is_called() -> None:
    model = rb.create_model("vim_nano", r=5, depth=3)
    graphed = GraphedForward(model)
    images = torch.randn(2, 1, 28, 28)
    with torch.inference_mode():
        assert not graphed.eligible(images)
        assert torch.equal(graphed(images), model(images))
    assert len(graphed) == 0


def test_a_failed_capture_runs_eagerly_and_keeps_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class CompilationError(Exception):
        """As Triton's, which is no RuntimeError."""

    model = rb.create_model("vim_nano", r=5, depth=2).eval()
    graphed = GraphedForward(model)
    images = torch.randn(1, 1, 28, 28)

    def fail(*_: object) -> None:
        raise CompilationError("out of resource: registers\nthe rest of it")

    monkeypatch.setattr(GraphedForward, "eligible", lambda self, _: self.refused is None)
    monkeypatch.setattr(torch.cuda, "Stream", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    with torch.inference_mode():
        assert torch.equal(graphed(images), model(images))
    assert graphed.refused == "CompilationError: out of resource: registers the rest of it"


def test_a_graph_serves_parameters_where_they_lie_and_one_freeze_only() -> None:
    model = rb.create_model("vim_nano", depth=2).eval()
    graphed, images = GraphedForward(model), torch.randn(1, 1, 28, 28)
    start = graphed.key(images)
    assert graphed.key(images) == start
    parameter = model.layers[1].mixer.A_b_log
    parameter.data = parameter.data.clone()  # the graph would read the old place
    moved = graphed.key(images)
    assert moved != start
    frozen = graphed.key(images) if model.freeze() else None
    assert frozen != moved
    model.thaw()
    assert graphed.key(images) == moved
    model.freeze()  # the graph of the first freeze holds what was derived then
    assert graphed.key(images) != frozen
