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


def test_the_graph_key_follows_parameters_and_takes_those_of_inference_mode() -> None:
    with torch.inference_mode():
        made_there = rb.create_model("vim_nano", depth=2)
        assert GraphedForward(made_there)._state() == GraphedForward(made_there)._state()
    model = rb.create_model("vim_nano", depth=2)
    graphed = GraphedForward(model)
    before = graphed._state()
    with torch.no_grad():
        model.layers[1].mixer.A_log.add_(1)
    changed = graphed._state()
    assert changed != before
    model.layers[0].mixer.D = torch.nn.Parameter(torch.ones_like(model.layers[0].mixer.D))
    assert graphed._state() != changed


def test_prepared_constants_follow_their_parameters() -> None:
    model = rb.create_model("vim_nano", depth=2)
    images = torch.randn(1, 1, 28, 28)
    with torch.inference_mode():
        before = model(images)
        assert torch.equal(model(images), before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("dt_proj_b.bias", "A_log", "conv1d.weight")):
                parameter.add_(0.5)
    other = rb.create_model("vim_nano", depth=2)
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        after = model(images)
        assert not torch.allclose(after, before)
        assert torch.equal(after, other(images))
    with torch.inference_mode():
        assert model.double()(images.double()).dtype == torch.float64
