"""Parity of a small merged DeiT with upstream's (its merge object called as it was meant to be)."""

from __future__ import annotations

from typing import Any

import golden_data
import pytest
import torch

from rmeeto_bench.models.deit import Deit, DeitConfig
from rmeeto_bench.reduction.config import ReductionConfig, VitOptions

KIND = "deit_d48"
ARGUMENTS = {"num_prune": "r", "if_order": "ordered", "if_prune": "prune", "distance": "distance", "metric": "metric"}


def cases() -> list[Any]:
    sets, outputs = golden_data.tensors("images", KIND).keys(), golden_data.tensors(f"{KIND}_outputs", KIND)
    return [
        pytest.param(name, case, id=name)
        for name, case in golden_data.text(KIND)["cases"].items()
        if case["input_set"] in sets and f"{name}/logits" in outputs
    ]


def model_of(args: dict[str, Any]) -> Deit:
    settings = {ours: args[theirs] for theirs, ours in ARGUMENTS.items() if theirs in args}
    vit = VitOptions(protect_class=args.get("class_token", True))
    reduction = ReductionConfig(**settings, vit=vit, unordered_sources="score")
    return Deit(DeitConfig(embed_dim=48, num_classes=10, norm_eps=1e-5), reduction).eval()


@pytest.mark.parametrize(("name", "case"), cases())
@torch.inference_mode()
def test_model_matches_upstream(name: str, case: dict[str, Any]) -> None:
    outputs = golden_data.tensors(f"{KIND}_outputs", KIND)
    model = model_of(case["args"])
    model.load_state_dict(golden_data.weights(KIND))
    images = golden_data.tensors("images", KIND)[case["input_set"]]
    assert float((model(images) - outputs[f"{name}/logits"]).abs().max()) < 1e-4
    tokens = model.forward_tokens(images, track_source=not case["args"].get("if_prune"))
    assert [*tokens.counts[1:], tokens.hidden.shape[1]] == case["token_counts"]
    if tokens.source is not None and f"{name}/source_group" in outputs:
        assert torch.equal(tokens.source.argmax(1), outputs[f"{name}/source_group"].long())
