"""VideoMamba and DeiT: sizes, names, loading, inflation, timm, and one interface for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.positions import resize_pos_embed
from rmeeto_bench.errors import CheckpointError, UsageError
from rmeeto_bench.models import sizes, zoo
from rmeeto_bench.models.videomamba import inflate
from rmeeto_bench.reduction.config import Ablation, ReductionConfig, VitOptions, tome

PARAMETERS = {
    "vim_tiny": 7_148_008,
    "vim_small": 25_796_584,
    "vim_base": 97_598_440,
    "videomamba_tiny": 7_148_008,
    "videomamba_small": 25_796_584,
    "videomamba_middle": 74_217_448,
    "videomamba_base": 97_598_440,
    "videomamba_tiny_k400_f8": 7_033_744,
    "videomamba_small_k400_f8": 25_568_656,
    "videomamba_middle_k400_f8": 73_875_856,
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "deit_base": 86_567_656,
}
SMALL = {"embed_dim": 16, "depth": 4, "img_size": 32}
SMALL_DEIT = {"embed_dim": 24, "num_heads": 2, "depth": 4, "img_size": 64}


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_the_papers(name: str, count: int) -> None:
    with torch.device("meta"):
        model = zoo.build(sizes.config(name), ReductionConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_keys_of_the_families_are_their_checkpoints() -> None:
    with torch.device("meta"):
        image, clip = (
            zoo.build(sizes.config(name), ReductionConfig()) for name in ("videomamba_tiny", "videomamba_tiny_k400_f8")
        )
    assert len(image.state_dict()) == 415
    extra = set(clip.state_dict()) - set(image.state_dict())
    assert extra == {"temporal_pos_embedding"}
    assert clip.state_dict()["patch_embed.proj.weight"].shape == (192, 3, 1, 16, 16)
    assert clip.planned_token_counts()[0] == 1569


def test_r_88_of_the_video_models_is_the_papers_ratio() -> None:
    for name, ratio, final in (("videomamba_small_k400_f8", 0.3085, 601), ("videomamba_middle_k400_f8", 0.4207, 249)):
        sized = sizes.config(name)
        counts = sized.token_counts(ReductionConfig(r=88))
        assert (counts[-1], round(1 - sum(counts) / len(counts) / 1569, 4)) == (final, ratio)
        assert sized.r_for_ratio(ratio)[0] == 88


@torch.inference_mode()
def test_a_clip_keeps_logits_and_schedule() -> None:
    model = rb.create_model("videomamba_tiny_k400_f8", r=2, frames=4, tubelet=2, **SMALL)
    assert model(torch.randn(2, 3, 4, 32, 32)).shape == (2, 400)
    assert model.token_counts() == model.planned_token_counts() == (9, 9, 7, 7)
    with pytest.raises(UsageError, match=r"images of shape \(B, \*\(3, 4, 32, 32\)\)"):
        model(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("tubelet", [1, 2, 4])
@torch.inference_mode()
def test_inflated_weights_see_a_still_clip_as_the_image(tubelet: int) -> None:
    """At the first block's input every frame's patches are the image's, whichever way the kernel was spread."""
    torch.manual_seed(0)
    image_model = rb.create_model("videomamba_tiny", num_classes=5, **SMALL)
    clip_model = rb.create_model("videomamba_tiny_k400_f8", num_classes=5, frames=4, tubelet=tubelet, **SMALL)
    image = torch.randn(1, 3, 32, 32)
    expected = image_model.embed(image)
    for spread in ("center", "repeat"):
        clip_model.load_state_dict(inflate(image_model.state_dict(), clip_model.config, spread))
        tokens = clip_model.embed(image[:, :, None].expand(-1, -1, 4, -1, -1))
        assert torch.equal(tokens[:, :1], expected[:, :1])
        for frame in tokens[:, 1:].unflatten(1, (4 // tubelet, -1)).unbind(1):
            assert torch.allclose(frame, expected[:, 1:], atol=1e-5)
    with pytest.raises(UsageError, match="center or repeat"):
        inflate(image_model.state_dict(), clip_model.config, "bilinear")
    with pytest.raises(UsageError, match="2-D kernel"):
        inflate(clip_model.state_dict(), clip_model.config)


def test_an_image_checkpoint_is_inflated_on_the_way_in(tmp_path: Path) -> None:
    image_model = rb.create_model("videomamba_tiny", num_classes=5, **SMALL)
    path = tmp_path / "image.safetensors"
    save_file(image_model.state_dict(), path)
    clip_model = rb.create_model("videomamba_tiny_k400_f8", num_classes=5, frames=4, checkpoint=path, **SMALL)
    assert torch.equal(clip_model.patch_embed.proj.weight[:, :, 0], image_model.patch_embed.proj.weight)
    assert rb.create_model("videomamba_tiny_k400_f8", frames=4, checkpoint=path, **SMALL).config.num_classes == 5
    with pytest.raises(CheckpointError, match="number of classes"):
        rb.create_model("videomamba_tiny_k400_f8", num_classes=6, frames=4, checkpoint=path, **SMALL)


@torch.inference_mode()
def test_timms_deit_weights_load_unchanged_and_give_timms_logits() -> None:
    theirs = timm.create_model("deit_tiny_patch16_224", depth=3, num_classes=7).eval()
    ours = rb.create_model("deit_tiny", depth=3, num_classes=7)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)
    ours.set_reduction(ReductionConfig(r=11))
    assert ours(images).shape == (2, 7)
    assert ours.token_counts() == (197, 186, 175)


@torch.inference_mode()
def test_tome_and_its_schedules() -> None:
    images = torch.randn(2, 3, 64, 64)
    counts = {}
    for name, vit in {
        "constant": VitOptions(),
        "falling": VitOptions(inflection=-1.0),
        "rising": VitOptions(inflection=1.0),
        "listed": VitOptions(per_block=(3, 0, 1)),
    }.items():
        model = rb.create_model("deit_tiny", reduction=tome(2, vit=vit), **SMALL_DEIT)
        model(images)
        assert model.token_counts() == model.planned_token_counts()
        counts[name] = model.token_counts()
    assert counts["constant"] == (17, 15, 13, 11)
    assert counts["rising"] == (17, 17, 16, 14)
    assert counts["falling"] == (17, 13, 11, 10)
    assert counts["listed"] == (17, 14, 14, 13)


@torch.inference_mode()
def test_proportional_attention_counts_a_merged_token_as_often_as_it_stands_for() -> None:
    """Two equal keys with weight log 1 each act as one with weight log 2."""
    from rmeeto_bench.models.deit import attend

    block = rb.create_model("deit_tiny", **SMALL_DEIT).blocks[0]
    x = torch.randn(1, 5, 24)
    twice = torch.cat([x, x[:, 4:]], dim=1)
    mixed, _ = attend(block, x, torch.tensor([1.0, 1, 1, 1, 2]).view(1, 5, 1), "X")
    expected, keys = attend(block, twice, None, "K")
    assert torch.allclose(mixed, expected[:, :5], atol=1e-6)
    assert keys.shape == (1, 6, 12)


@pytest.mark.parametrize(
    ("name", "reduction", "says"),
    [
        ("vim_nano", ReductionConfig(r=2, metric="K"), "belongs to attention"),
        ("deit_tiny", ReductionConfig(r=2, metric="delta"), "belongs to a scan"),
        ("deit_tiny", ReductionConfig(r=2, placement="odd"), "placement"),
        ("deit_tiny", ReductionConfig(r=2, ablation=Ablation(shuffle=0.5)), "ablation"),
    ],
)
def test_what_a_family_does_not_have_is_refused(name: str, reduction: ReductionConfig, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        rb.create_model(name, reduction=reduction)


def test_position_embeddings_resize_around_a_leading_class_row() -> None:
    table = torch.randn(1, 197, 8)
    small = resize_pos_embed(table, 49, cls_first=True)
    assert torch.equal(small[:, 0], table[:, 0])
    assert small.shape == (1, 50, 8)


def test_timm_knows_every_family() -> None:
    code = (
        "import rmeeto_bench, timm; from rmeeto_bench.models.timm_models import timm_name; "
        "from rmeeto_bench.models.sizes import MODELS; "
        "assert all(timm.is_model(timm_name(n)) for n in MODELS if n != 'vim_nano'); "
        "m = timm.create_model('videomamba_tiny_k400_f8_patch16_224.rmeeto_r88', depth=2); assert m.reduction.r == 88; "
        "assert timm.create_model('rmeeto_deit_tiny_patch16_224.rmeeto_r11', depth=2).planned_token_counts() == (197, 186); "
        "assert type(timm.create_model('deit_tiny_patch16_224')).__module__.startswith('timm'); "
        "assert timm.create_model('videomamba_middle_patch16_224', embed_dim=16).config.depth == 32"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
