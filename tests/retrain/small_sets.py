"""Small data sets on disk, and a recipe that trains in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from rmeeto_bench.retrain.presets import preset
from rmeeto_bench.retrain.recipe import Recipe, changed


def write_folders(folder: Path, per_class: int = 6, classes: int = 2, size: int = 40) -> Path:
    """PNG files in train/ and val/, a folder per class, each class of another colour."""
    for part in ("train", "val"):
        for label in range(classes):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                colour = tuple(60 + 90 * label + 7 * i + channel for channel in range(3))
                Image.new("RGB", (size + i, size), colour).save(place / f"{i}.png")
    return folder


def tiny_recipe(**changes: object) -> Recipe:
    """`nano_retrain` for one epoch at half resolution, 16 images a batch; `changes` are fields with __ for the dot."""
    quick = {"schedule__epochs": 1, "optimisation__batch_size": 16, "img_size": 14, "schedule__lr": 3e-3, **changes}
    named = {name.replace("__", "."): value for name, value in quick.items()}
    return replace(changed(preset("nano_retrain"), named), start="scratch")
