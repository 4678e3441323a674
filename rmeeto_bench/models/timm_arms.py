"""Any classification model of timm as it is: what it takes, how its images are prepared, its weights by timm's own rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.foreign import ForeignConfig
from rmeeto_bench.validate import close_to


def settings(name: str) -> Any:
    """timm's own settings of a model. Raises `UsageError` with close names for one that timm doesn't know."""
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = close_to(base, timm.list_models())
        raise UsageError(f"timm {timm.__version__} has no model {name!r:.60}{near}; timm.list_models() lists them")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise UsageError(f"timm has no weights {tag!r:.60} of {base}; choose {', '.join(tags) or 'none'}")
    found = timm.get_pretrained_cfg(name)
    if found is None or not found.num_classes:
        raise UsageError(f"timm's {name} has no classes, so no logits; choose a classifier")
    return found


def sizes(found: Any) -> ForeignConfig:
    """What a model of these settings takes and gives."""
    return ForeignConfig(tuple(found.input_size), found.num_classes)


def preprocessing(found: Any) -> dict[str, Any]:
    """How its images are prepared, as `data.preprocessing.declared` reads it."""
    from timm.data import resolve_data_config

    known = resolve_data_config(pretrained_cfg=found.to_dict())
    size = known["input_size"][-1]
    names = ("interpolation", "crop_mode", "mean", "std")
    return {"shape": list(known["input_size"]), "short": math.floor(size / known["crop_pct"])} | {n: known[n] for n in names}


def address(found: Any) -> str:
    """Where timm has its weights, as `checkpoints.hub.resolve` reads it; empty where there are none."""
    return f"{found.hf_hub_id}:{found.hf_hub_filename or 'model.safetensors'}" if found.hf_hub_id else ""


def make(name: str, state: Mapping[str, Tensor] | None) -> nn.Module:
    """The model with random weights, or with these, which timm adapts as it adapts its own."""
    import timm

    if state is None:
        return timm.create_model(name, pretrained=False)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
