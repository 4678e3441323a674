"""Parity of whole small Vims and VideoMambas with upstream's classes: logits, tokens, class positions, token origins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import golden_data
import pytest
import torch

from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import Ablation, ReductionConfig

EVERY = ("vim_d32", "vim_d48", "videomamba_img_d32", "video3d_d32", "video3d_d24_tub2")
KINDS = [kind for kind in EVERY if (golden_data.folder(kind) / f"{kind}.json").is_file()]
K_OF = {"max": 1, "3c": 3, "5c": 5, "7c": 7, "14c": 14, "21c": 21}


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    stem = golden_data.text(kind)["input_file"].removesuffix(".safetensors")
    return golden_data.tensors(stem, kind)


def cases() -> list[Any]:
    """Every recorded case whose input and outputs are at hand."""
    found = []
    for kind in KINDS:
        sets, outputs = inputs_of(kind).keys(), golden_data.tensors(f"{kind}_outputs", kind)
        for name, case in golden_data.text(kind)["cases"].items():
            if case["input_set"] in sets and f"{name}/logits" in outputs:
                found.append(pytest.param(kind, name, case, id=f"{kind}-{name}"))
    return found


def sizes_of(kind: str, args: dict[str, Any]) -> VimConfig:
    data = golden_data.text(kind)
    family = data["config"]
    common = VimConfig(embed_dim=data["embed_dim"], num_classes=10)
    if family["k"] == "vim":
        return replace(common, divide_out=args.get("if_divide_out", True))
    if family["k"] == "vm":
        return replace(common, divide_out=False, cls_first=True)
    clip = {"img_size": family["img"], "frames": family["frames"], "tubelet": family["tub"]}
    return replace(common, divide_out=False, cls_first=True, **clip)


def reduction_of(args: dict[str, Any]) -> ReductionConfig:
    return ReductionConfig(
        r=args.get("num_prune", 0),
        final_tokens=max(2, 197 - 11 * args["compare"]) if "compare" in args else None,
        placement="odd" if args.get("if_merge_odd") else "even",
        interval=args.get("merge_interval", 2),
        ordered=args.get("if_order", True),
        unordered_sources="score",
        prune=args.get("if_prune", False),
        metric=args.get("metric", "X"),
        metric_flip="features",
        mode=args.get("merge_mode", "sum"),
        distance=args.get("distance", "cosine"),
        choose_k=K_OF[args.get("choose", "max")],
        first_token_as_cls=args.get("if_visualize", False),
        ablation=Ablation(shuffle=args.get("shuffle_rate", 0.0), seed=args.get("rng_seed", 0)),
    )


# One is enough: the kernels are compared with the reference in tests/kernels, a whole Vim included. 65 tokens, at the end 2.
INTERPRETED = [parameters for parameters in cases() if parameters.id == "video3d_d24_tub2-r7"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "case"), INTERPRETED)
@torch.inference_mode()
def test_the_triton_backend_matches_upstream_under_the_interpreter(kind: str, name: str, case: dict[str, Any]) -> None:
    model = Vim(sizes_of(kind, case["args"]), reduction_of(case["args"]), backend="triton").eval()
    model.load_state_dict(golden_data.weights(kind))
    logits = model(inputs_of(kind)[case["input_set"]][:1])
    assert model.merge_path == "fused"
    assert list(model.token_counts()) == case["token_counts"]
    assert float((logits - golden_data.tensors(f"{kind}_outputs", kind)[f"{name}/logits"][:1]).abs().max()) < 1e-4


@pytest.mark.parametrize(("kind", "name", "case"), cases())
@torch.inference_mode()
def test_model_matches_upstream(kind: str, name: str, case: dict[str, Any]) -> None:
    outputs = golden_data.tensors(f"{kind}_outputs", kind)
    args = case["args"]
    model = Vim(sizes_of(kind, args), reduction_of(args)).eval()
    model.load_state_dict(golden_data.weights(kind))
    images = inputs_of(kind)[case["input_set"]]
    logits = model(images)
    assert float((logits - outputs[f"{name}/logits"]).abs().max()) < 1e-4
    if args.get("cls") == "teacher":
        return
    tokens = model.forward_tokens(images, track_source=not args.get("if_prune"))
    assert list(tokens.counts) == case["token_counts"] == list(model.planned_token_counts())
    assert tokens.positions == case["token_positions"]
    if tokens.source is not None and f"{name}/source_group" in outputs:
        assert torch.equal(tokens.source.argmax(1), outputs[f"{name}/source_group"].long())
