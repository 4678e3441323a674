"""The models under timm's names: `vim_small_patch16_224`, with tags `.rmeeto_r5` ... for the paper's r."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg

from rmeeto_bench.data.image_set import IMAGENET
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.models.zoo import VIM, create_model
from rmeeto_bench.reduction.schedule import PAPER_RATIOS

TAG = "rmeeto_r"


def _settings(name: str) -> Any:
    sized = VIM[name]
    return {
        "num_classes": sized.num_classes,
        "input_size": (sized.in_chans, sized.img_size, sized.img_size),
        "mean": IMAGENET.mean,
        "std": IMAGENET.std,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _weights(settings: Any, name: str) -> str:
    """Where pretrained weights are: in the folder or repository that was asked for (`checkpoints.publish`), else public."""
    if settings.source == "local-dir" and settings.file:
        return str(Path(settings.file) / "model.safetensors")
    return f"{settings.hf_hub_id}:model.safetensors" if settings.source == "hf-hub" else name


def _entry(name: str, timm_name: str) -> Any:
    def build(pretrained: bool = False, pretrained_cfg: Any = None, r: int | None = None, **kwargs: Any) -> Vim:  # noqa: FBT001, FBT002
        settings = resolve_pretrained_cfg(timm_name, pretrained_cfg=pretrained_cfg)
        tag = settings.tag or ""
        if r is None:
            r = int(tag.removeprefix(TAG)) if tag.startswith(TAG) else 0
        sizes = {key: value for key, value in kwargs.items() if not key.startswith("pretrained_") and key != "cache_dir"}
        model = create_model(name, r=r, checkpoint=_weights(settings, name) if pretrained else None, **sizes)
        model.pretrained_cfg = model.default_cfg = settings.to_dict()
        return model

    build.__name__ = build.__qualname__ = timm_name
    build.__module__ = __name__
    return build


def register() -> None:
    """Make the models known to timm. `pretrained=True` loads the public baseline checkpoint through the hub's client."""
    module = sys.modules[__name__]
    for name in ("vim_tiny", "vim_small", "vim_base"):
        timm_name = f"{name}_patch16_224"
        if hasattr(module, timm_name):
            continue
        tags = ["", *(f".{TAG}{r}" for r in PAPER_RATIOS.values() if r)]
        settings = {timm_name + tag: _settings(name) for tag in tags}
        module.__dict__["default_cfgs"] = {**getattr(module, "default_cfgs", {}), **generate_default_cfgs(settings)}
        setattr(module, timm_name, register_model(_entry(name, timm_name)))
