"""The models under timm's names, with tags `.rmeeto_r5` ... for the paper's r: `vim_small_patch16_224.rmeeto_r11`.

The functions import timm, not the module: timm's import calls `register` (`timm_hook`), which would meet a module that is only
half there. timm has a `deit_small_patch16_224` of its own, so ours, which merges, is `rmeeto_deit_small_patch16_224`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rmeeto_bench.data.image_set import IMAGENET
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.sizes import MODELS
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.reduction.schedule import PAPER_RATIOS, VIDEO_RS

TAG = "rmeeto_r"
BUNDLED = ("vim_nano",)  # trained on other images than timm's names promise


def timm_name(name: str) -> str:
    """`vim_small` -> `vim_small_patch16_224`, `deit_small` -> `rmeeto_deit_small_patch16_224`."""
    sized = MODELS[name]
    own = f"rmeeto_{name}" if name.startswith("deit") else name
    return f"{own}_patch{sized.patch_size}_{sized.img_size}"


def _settings(name: str) -> Any:
    sized = MODELS[name]
    return {
        "num_classes": sized.num_classes,
        "input_size": sized.input_shape,
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


def _entry(name: str, registered: str) -> Any:
    def build(pretrained: bool = False, pretrained_cfg: Any = None, r: int | None = None, **kwargs: Any) -> ReducedModel:  # noqa: FBT001, FBT002
        from timm.models import resolve_pretrained_cfg

        settings = resolve_pretrained_cfg(registered, pretrained_cfg=pretrained_cfg)
        tag = settings.tag or ""
        if r is None:
            r = int(tag.removeprefix(TAG)) if tag.startswith(TAG) else 0
        sizes = {key: value for key, value in kwargs.items() if not key.startswith("pretrained_") and key != "cache_dir"}
        model = create_model(name, r=r, checkpoint=_weights(settings, name) if pretrained else None, **sizes)
        model.pretrained_cfg = model.default_cfg = settings.to_dict()
        return model

    build.__name__ = build.__qualname__ = registered
    build.__module__ = __name__
    return build


def register() -> None:
    """Make the models known to timm. `pretrained=True` loads the public baseline checkpoint through the hub's client."""
    from timm.models import generate_default_cfgs, register_model

    module = sys.modules[__name__]
    for name in MODELS:
        registered = timm_name(name)
        if name in BUNDLED or hasattr(module, registered):
            continue
        rs = VIDEO_RS if len(MODELS[name].input_shape) == 4 else tuple(PAPER_RATIOS.values())
        settings = {registered + tag: _settings(name) for tag in ["", *(f".{TAG}{r}" for r in rs if r)]}
        module.__dict__["default_cfgs"] = {**getattr(module, "default_cfgs", {}), **generate_default_cfgs(settings)}
        setattr(module, registered, register_model(_entry(name, registered)))
