"""An evaluation uses the weights that are there, whichever way they came: nothing derived from older ones is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.models.base import ReducedModel

IMAGES = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def small() -> ReducedModel:
    return rb.create_model("vim_nano", r=5, depth=2).eval()


@torch.no_grad()
def logits(model: ReducedModel) -> Tensor:
    return model(IMAGES.to(model.cls_token.dtype))


def other_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: value + 0.3 * torch.rand_like(value) for name, value in small().state_dict().items()}


def step_of_a_fused_optimizer(model: ReducedModel) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(IMAGES).square().sum().backward()
    optimizer.step()


def copy_into_data(model: ReducedModel) -> None:
    for name, value in other_weights().items():
        model.get_parameter(name).data.copy_(value)


def write_through_a_view(model: ReducedModel) -> None:
    for parameter in model.parameters():
        parameter.detach().numpy()[...] += 0.2


def swap_parameters(model: ReducedModel) -> None:
    weights = other_weights()
    for path, module in model.named_modules():
        for name in [name for name, value in module._parameters.items() if value is not None]:
            setattr(module, name, torch.nn.Parameter(weights[f"{path}.{name}".lstrip(".")]))


def load(model: ReducedModel) -> None:
    model.load_state_dict(other_weights())


@pytest.mark.parametrize(
    "change", [step_of_a_fused_optimizer, copy_into_data, write_through_a_view, swap_parameters, load, ReducedModel.double]
)
@pytest.mark.parametrize("inference", [False, True], ids=["plain", "built in inference mode"])
def test_changed_weights_are_used(change: Callable[[ReducedModel], object], inference: bool) -> None:
    if inference and change is step_of_a_fused_optimizer:
        pytest.skip("torch trains no model that was built in inference mode")
    with torch.inference_mode(mode=inference):
        model = small()
        before = logits(model)
        change(model)
        after = logits(model)
        fresh = small().to(model.cls_token.dtype)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(after, logits(fresh))
        assert change is ReducedModel.double or not torch.allclose(after, before)


def test_a_frozen_model_keeps_its_derived_weights_until_it_is_loaded_moved_or_trained() -> None:
    model = small()
    before = logits(model)
    assert torch.equal(logits(model.freeze()), before)
    kept = [module._kept for module in model.modules() if hasattr(module, "_kept")]
    assert len(kept) == 2
    assert all(len(of) == 1 for of in kept if of is not None)
    load(model)
    assert model.frozen is None
    fresh = small()
    load(fresh)
    assert torch.equal(logits(model), logits(fresh))
    assert model.freeze().double().frozen is None
    assert model.freeze().train().frozen is None
    assert model.eval().freeze().eval().frozen is not None
