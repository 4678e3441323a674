"""What comes to the model: every image once, shared out without repeats, the same from any starting point."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_sets import tiny_recipe, write_folders
from torch import Tensor

from rmeeto_bench.data.image_set import Normalisation, TensorSet
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.retrain.augment import BatchMix, Draw, augmented, draw, fit, mirror, shift
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.feed import Feed, validation_batches
from rmeeto_bench.retrain.recipe import Augmentation, Recipe
from rmeeto_bench.retrain.training_sets import find_training

RGB = (3, 32, 32)
PLAIN = {"augmentation__crop": "none", "augmentation__flip": False, "img_size": 28}


def place(rank: int, size: int) -> World:
    return World(torch.device("cpu"), rank, size)


def seen(recipe: Recipe, epoch: int, world: World) -> list[int]:
    """The numbers of the images that come, from a set whose pixels are their image's number."""
    pixels = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()
    data: TensorSet = replace(
        fashion_mnist.load("test").subset(100), pixels=pixels, normalisation=Normalisation((0.0,), (1.0,))
    )
    feed = Feed(data, (1, 28, 28), recipe, world)
    return [round(float(v) * 255) for images, _ in feed.batches(epoch) for v in images[:, 0, 0, 0]]


def moved(recipe: Recipe, world: World) -> list[Tensor]:
    """The batches of an epoch of real images."""
    return [images for images, _ in Feed(fashion_mnist.load("test").subset(48), (1, 28, 28), recipe, world).batches(0)]


def test_every_image_once_an_epoch_and_in_another_order_the_next() -> None:
    recipe = tiny_recipe(**PLAIN, optimisation__batch_size=20)
    epochs = [seen(recipe, epoch, place(0, 1)) for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_share_the_images_of_the_same_global_batches(size: int) -> None:
    alone = seen(tiny_recipe(**PLAIN, optimisation__batch_size=4 * size), 3, place(0, 1))
    recipe = tiny_recipe(**PLAIN, optimisation__batch_size=4)
    parts = [seen(recipe, 3, place(rank, size)) for rank in range(size)]
    assert max(Counter(image for part in parts for image in part).values()) == 1
    for batch in range(len(alone) // (4 * size)):
        shared = [image for part in parts for image in part[4 * batch : 4 * batch + 4]]
        assert sorted(shared) == sorted(alone[4 * size * batch : 4 * size * (batch + 1)])
    assert sum(len(part) for part in parts) == len(alone)


def test_repeated_augmentation_shows_a_third_of_the_images_three_times() -> None:
    images = Counter(seen(tiny_recipe(**PLAIN, augmentation__repeats=3, optimisation__batch_size=20), 0, place(0, 1)))
    assert sum(images.values()) == 100
    assert set(images.values()) == {3, 1}
    assert len(images) == 34


def test_copies_are_neighbours_and_make_the_epoch_longer() -> None:
    copied = seen(tiny_recipe(**PLAIN, augmentation__copies=2, optimisation__batch_size=20), 0, place(0, 1))
    assert len(copied) == 200
    assert copied[::2] == copied[1::2]
    assert sorted(copied[::2]) == list(range(100))
    with pytest.raises(UsageError, match="multiple of the 3 copies"):
        tiny_recipe(augmentation__copies=3)


@pytest.mark.parametrize("crop", ["shift", "resized"])
def test_copies_are_augmented_each_by_itself_and_alike_for_any_number_of_processes(crop: str) -> None:
    changes = {"img_size": 28, "augmentation__copies": 2, "augmentation__crop": crop, "augmentation__randaugment": "none"}
    alone = moved(tiny_recipe(**changes, optimisation__batch_size=16), place(0, 1))
    shared = [moved(tiny_recipe(**changes, optimisation__batch_size=8), place(rank, 2)) for rank in (0, 1)]
    for whole, *parts in zip(alone, *shared, strict=True):
        pairs = whole.view(8, 2, 1, 28, 28)
        assert not all(torch.equal(a, b) for a, b in pairs)
        for rank, part in enumerate(parts):
            assert torch.equal(part, pairs[rank::2].flatten(0, 1))


def test_an_epoch_can_start_anywhere_with_the_same_augmentation() -> None:
    feed = Feed(fashion_mnist.load("test").subset(64), (1, 28, 28), tiny_recipe(img_size=28), place(1, 2))
    whole, late = list(feed.batches(5)), list(feed.batches(5, 1))
    assert len(whole) == len(late) + 1
    for (a, la), (b, lb) in zip(whole[1:], late, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_single_images_are_augmented_the_same_by_any_worker_and_process() -> None:
    recipe = tiny_recipe(
        img_size=28,
        optimisation__batch_size=8,
        augmentation__crop="resized",
        augmentation__randaugment="rand-m9-mstd0.5-inc1",
    )
    data = fashion_mnist.load("test").subset(24)
    alone = [batch for batch, _ in Feed(data, (1, 28, 28), recipe, place(0, 1)).batches(0)]
    half = replace(recipe, optimisation=replace(recipe.optimisation, batch_size=4))
    shared = [batch for batch, _ in Feed(data, (1, 28, 28), half, place(1, 2), workers=2).batches(0)]
    assert all(torch.equal(a[1::2], b) for a, b in zip(alone, shared, strict=True))
    other = [batch for batch, _ in Feed(data, (1, 28, 28), recipe, place(0, 1)).batches(1)]
    assert not any(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


def test_image_folders_are_read_cropped_and_labelled(tmp_path: Path) -> None:
    training, validation = find_training(write_folders(tmp_path), RGB)
    assert (len(training), training.num_classes, len(validation)) == (12, 2, 12)
    recipe = tiny_recipe(optimisation__batch_size=4, augmentation__crop="resized", img_size=32)
    batches = list(Feed(training, (3, 32, 32), recipe, place(0, 1)).batches(0))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 32, 32)] * 3
    means = torch.cat([images.mean((1, 2, 3)) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert float(means[labels == 1].min()) > float(means[labels == 0].max())  # the second class is lighter throughout
    ranks = [list(validation_batches(validation, (3, 32, 32), place(rank, 2), 5)) for rank in (0, 1)]
    assert sum(len(labels) for rank in ranks for _, labels in rank) == 12


def test_data_that_cannot_be_trained_on_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        find_training(tmp_path / "nowhere", RGB)
    with pytest.raises(DataError, match="train/ and val/"):
        find_training(tmp_path, RGB)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        find_training(tmp_path, RGB)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    write_folders(tmp_path, per_class=2)
    (tmp_path / "train" / "class0" / "1.png").write_bytes(b"no image")
    training, _ = find_training(tmp_path, RGB)
    feed = Feed(training, (3, 32, 32), tiny_recipe(optimisation__batch_size=4), place(0, 1), workers)
    with pytest.raises(DataError, match=r"^cannot read image .*1.png") as caught:
        list(feed.batches(0))
    assert "\n" not in str(caught.value)


def test_augmentation_moves_pixels_but_invents_none() -> None:
    settings = Augmentation(crop="shift", crop_padding=2)
    images = torch.arange(1, 65).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    drawn = draw(settings, 50, torch.Generator().manual_seed(0))
    assert drawn.shifts is not None
    moved = shift(images, drawn.shifts, 2)
    assert set(moved.unique().tolist()) <= set(range(65))
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 10
    assert torch.equal(shift(images, torch.full((2, 50, 1), 2), 2), images)
    mirrored = mirror(images, torch.arange(50) % 2 == 0)
    assert torch.equal(mirrored[1], images[1])
    assert torch.equal(mirrored[0], images[0].flip(2))
    assert torch.equal(augmented(images, settings, Draw(None, None)), images)


@pytest.mark.parametrize(("channels", "size"), [(1, 14), (3, 14), (3, 56), (1, 28)])
def test_images_fit_the_model(channels: int, size: int) -> None:
    images = torch.rand(2, 1, 28, 28)
    fitted = fit(images, (channels, size, size))
    assert fitted.shape == (2, channels, size, size)
    assert float(fitted.mean()) == pytest.approx(float(images.mean()), abs=0.02)
    assert torch.equal(fitted[:, 0], fitted[:, -1])


def test_mixing_makes_distributions_and_erasing_noise() -> None:
    def mixed(**changes: object) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return BatchMix(tiny_recipe(**changes), 10, torch.device("cpu"))(torch.ones(4, 1, 14, 14), torch.arange(4))

    assert mixed()[1].dtype == torch.int64
    labels = mixed(augmentation__mixup=0.8, augmentation__cutmix=1.0, augmentation__label_smoothing=0.1)[1]
    assert labels.shape == (4, 10)
    assert torch.allclose(labels.sum(1), torch.ones(4))
    assert float(labels.min()) == pytest.approx(0.01)
    images = mixed(augmentation__erasing=1.0)[0]
    assert 0 < float((images != 1).float().mean()) < 0.5
