"""The Vim model: sizes, names, schedule, robustness."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.positions import resize_pos_embed
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import VIM
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig, upstream_exact

PARAMETERS = {"vim_tiny": 7_148_008, "vim_small": 25_796_584, "vim_base": 97_598_440}
SMALL = {"depth": 6, "embed_dim": 16}


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_and_keys_are_upstreams(name: str, count: int) -> None:
    with torch.device("meta"):
        model = Vim(VIM[name], backend="reference")
    assert sum(p.numel() for p in model.parameters()) == count
    keys = model.state_dict()
    assert len(keys) == 415
    assert keys["layers.23.mixer.x_proj_b.weight"].shape == (2 * VIM[name].embed_dim, VIM[name].dt_rank + 32)[::-1]
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm_f.weight", "layers.0.mixer.A_b_log"} <= set(keys)


@torch.inference_mode()
def test_r_zero_is_the_plain_model_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = rb.create_model("vim_nano", **SMALL)
    plain = model(images())
    model.set_reduction(ReductionConfig(r=0, mode="amax", ordered=False))
    assert torch.equal(plain, model(images()))


@torch.inference_mode()
def test_realised_tokens_equal_the_schedule_and_logits_are_always_logits() -> None:
    model = rb.create_model("vim_nano", r=20)
    planned = model.token_counts()
    assert model(images()).shape == (2, 10)
    assert model.token_counts() == planned == model.planned_token_counts()
    assert model.reduction_ratio == pytest.approx(0.5398, abs=5e-5)
    assert model.train()(images()).shape == (2, 10)


@pytest.mark.parametrize(
    "changes", [{}, {"metric": "B"}, {"metric": "delta"}, {"cls_position": "exact_rank"}, {"prune": True}, {"mode": "amin"}]
)
@torch.inference_mode()
def test_backends_agree_on_merged_models(changes: dict) -> None:
    torch.manual_seed(3)
    reference = rb.create_model("vim_nano", reduction=ReductionConfig(r=20, **changes), backend="chunked", **SMALL)
    native = rb.create_model("vim_nano", reduction=ReductionConfig(r=20, **changes), backend="native", **SMALL)
    native.load_state_dict(reference.state_dict())
    assert torch.allclose(reference(images()), native(images()), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_runs_and_stays_close(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = rb.create_model("vim_nano", r=11, **SMALL)
    full = model(images())
    half = model.to(dtype)(images().to(dtype))
    assert half.dtype == dtype
    assert torch.allclose(full, half.float(), atol=0.1)


def test_training_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    model = rb.create_model("vim_nano", r=11, **SMALL).train()
    model(images()).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert float(model.layers[0].mixer.A_log.grad.abs().sum()) > 0


def test_gradients_agree_between_backends_through_merging() -> None:
    gradients = []
    for backend in ("chunked", "native"):
        torch.manual_seed(0)
        model = rb.create_model("vim_nano", r=11, backend=backend, **SMALL)
        model(images()).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        assert torch.allclose(expected, gradients[1][name], rtol=1e-3, atol=1e-5 * float(expected.abs().max()) + 1e-7), name


@pytest.mark.parametrize("size", [4, 8, 14])
@torch.inference_mode()
def test_small_images_clamp_r_down_to_two_tokens(size: int) -> None:
    model = rb.create_model("vim_nano", r=50, img_size=size, depth=8, embed_dim=16)
    assert model(torch.randn(1, 1, size, size)).isfinite().all()
    assert model.token_counts()[-1] >= 2


def test_asking_twice_for_the_amount_or_for_the_unknown_is_refused() -> None:
    with pytest.raises(UsageError, match="one of r"):
        rb.create_model("vim_nano", r=5, reduction_ratio=0.14)
    with pytest.raises(UsageError, match="unknown model 'vim_huge'.*; choose vim_tiny"):
        rb.create_model("vim_huge")
    with pytest.raises(UsageError, match="no size heads"):
        rb.create_model("vim_tiny", heads=3)
    with pytest.raises(UsageError, match="224 or 240 do"):
        VimConfig(img_size=225)
    with pytest.raises(UsageError, match=r"images of shape \(B, \*\(1, 28, 28\)\)"):
        rb.create_model("vim_nano", **SMALL)(torch.randn(1, 3, 28, 28))


def test_upstream_exact_ends_at_its_fixed_token_count() -> None:
    assert rb.create_model("vim_nano", reduction=upstream_exact(5)).token_counts()[-1] == 76


def test_position_embeddings_resize_around_the_class_row() -> None:
    table = torch.randn(1, 197, 8)
    small = resize_pos_embed(table, 49)
    assert small.shape == (1, 50, 8)
    assert torch.equal(small[:, 24], table[:, 98])
    assert torch.equal(resize_pos_embed(table, 196), table)
    constant = resize_pos_embed(torch.ones(1, 50, 4), 196)
    assert torch.allclose(constant, torch.ones(1, 197, 4), atol=1e-5)
    with pytest.raises(UsageError, match="square"):
        resize_pos_embed(table, 50)


@pytest.mark.parametrize("order", ["import rmeeto_bench, timm", "import timm, rmeeto_bench"])
def test_timm_knows_the_models_whichever_is_imported_first(order: str) -> None:
    code = (
        f"{order}; m = timm.create_model('vim_tiny_patch16_224.rmeeto_r11', num_classes=5); "
        "assert m.reduction.r == 11 and m.config.num_classes == 5; "
        "assert timm.create_model('vim_tiny_patch16_224', r=5).reduction.r == 5; "
        "assert len(timm.list_models('vim_*')) == 5; assert timm.data.resolve_data_config(model=m)['crop_pct'] == 0.875"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_all_there() -> None:
    assert all(getattr(rb, name) is not None for name in rb.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = rb.nothing
