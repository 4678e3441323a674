"""How a file of weights was made, by its header: enough to know whether a training was already done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rmeeto_bench.checkpoints.reader import METADATA_PREFIX, sha256
from rmeeto_bench.checkpoints.trained import written
from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.retrain.recipe import Recipe
from rmeeto_bench.retrain.training_sets import LabelledSet

RANDOM = "random weights"
# What decides the weights: entry of the header -> what a message calls it.
DECIDES = {
    "settings": "recipe", "reduction": "reduction", "init": "--init", "data": "images", "classes": "classes", "dtype": "dtype",
}  # fmt: skip
LONGEST = 60  # characters of a value in a message


def data_digest(data: LabelledSet) -> str:
    """16 hex digits that stand for the images of a set: their labels, and their pixels or the names and sizes of the files."""
    digest = hashlib.sha256(data.fingerprint.encode())
    stamps = None if isinstance(data, TensorSet) else getattr(data.source, "stamps", None)
    if stamps is not None:
        digest.update(stamps[:, 0].tobytes())
    return digest.hexdigest()[:16]


def class_names(data: LabelledSet) -> list[str]:
    """The classes of a set in the order of their numbers."""
    names = data.classes if isinstance(data, TensorSet) else data.class_names
    return list(names) or [str(number) for number in range(data.num_classes)]


def decided(
    recipe: Recipe, reduction: ReductionConfig, start: Path | None, sets: tuple[LabelledSet, LabelledSet], *, half: bool
) -> dict[str, str]:
    """The entries of the header that decide what a training makes."""
    training, validation = sets
    return {
        "settings": json.dumps(asdict(recipe)),
        "reduction": written(reduction),
        "init": RANDOM if start is None else f"{start.name} sha256 {sha256(start)}",
        "data": f"{training.name} and {validation.name}, digest {data_digest(training)}{data_digest(validation)}",
        "classes": json.dumps(class_names(training), ensure_ascii=False),
        "dtype": "fp16" if half else "fp32",
    }


def header(path: Path) -> dict[str, str]:
    """Our entries in the header of a safetensors file; none of one that cannot be read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return {}
    return {key.removeprefix(METADATA_PREFIX): text for key, text in found.items() if key.startswith(METADATA_PREFIX)}


def differences(there: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """`recipe.schedule.lr 0.001, not 0.002` for everything in which a training that is there differs from the one asked for."""
    found = []
    for key, name in DECIDES.items():
        if key not in there:
            return ["it does not say how it was made"]
        last = key in ("init", "data")  # names in front of the digest do not matter
        if not (there[key].rpartition(" ")[2] == asked[key].rpartition(" ")[2] if last else there[key] == asked[key]):
            found += _parts(name, _value(there[key]), _value(asked[key]))
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _parts(name: str, there: Any, asked: Any) -> list[str]:
    """The leaves in which two values differ."""
    if isinstance(there, dict) and isinstance(asked, dict):
        keys = list(dict.fromkeys([*there, *asked]))
        return [part for key in keys for part in _parts(f"{name}.{key}", there.get(key), asked.get(key))]
    if there == asked:
        return []
    return [f"{name} {_short(there)}, not {_short(asked)}"]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
