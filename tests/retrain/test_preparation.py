"""One preparation per model: what training and its validation see is what an evaluation sees, for every model there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rmeeto_bench.data.find import Where, find_data
from rmeeto_bench.data.preprocessing import preprocessing_for
from rmeeto_bench.data.reading import EncodedSet
from rmeeto_bench.models.sizes import MODELS
from rmeeto_bench.retrain.augment import image_transform
from rmeeto_bench.retrain.recipe import Augmentation
from rmeeto_bench.retrain.training_sets import find_training

IMAGES = [name for name, sizes in MODELS.items() if len(sizes.input_shape) == 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of oblong pictures in colour, whose middle is not their whole."""
    place = tmp_path_factory.mktemp("pictures")
    for part in ("train", "val"):
        for label in range(2):
            (place / part / f"class{label}").mkdir(parents=True)
            picture = Image.radial_gradient("L").resize((70, 41 + label))
            Image.merge("RGB", (picture, picture.rotate(90), picture.rotate(180))).save(
                place / part / f"class{label}" / "0.png"
            )
    return place


@pytest.mark.parametrize("model", IMAGES)
def test_training_validation_and_evaluation_prepare_alike(model: str, folder: Path) -> None:
    shape = MODELS[model].input_shape
    training, validation = find_training(folder, shape)
    evaluated = find_data(folder / "val", shape=shape, num_classes=2, images=None, where=Where(names=("class0", "class1")))
    assert isinstance(evaluated, EncodedSet)
    assert isinstance(validation, EncodedSet)
    assert isinstance(training, EncodedSet)
    assert training.preprocessing == validation.preprocessing == evaluated.preprocessing == preprocessing_for(shape)
    one, other = (next(iter(data.batches(2))) for data in (validation, evaluated))
    assert torch.equal(one.images, other.images)
    assert one.images.shape[1:] == shape
    plain = Augmentation(crop="none", flip=False, randaugment="none")
    picture = Image.open(folder / "val" / "class0" / "0.png")
    assert torch.equal(image_transform(plain, preprocessing_for(shape))(picture), other.pixels[0])


@pytest.mark.parametrize("model", ["vim_nano", "vim_tiny"])
@pytest.mark.parametrize("crop", ["none", "resized"])
def test_augmentation_keeps_channels_and_size(model: str, crop: str) -> None:
    prepared = preprocessing_for(MODELS[model].input_shape)
    picture = Image.radial_gradient("L").resize((70, 41)).convert("RGB")
    varied = replace(Augmentation(), crop=crop, randaugment="rand-m9-mstd0.5-inc1")
    assert image_transform(varied, prepared)(picture).shape == prepared.shape
