"""Training: schedule, determinism, learning, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.data import fashion_mnist
from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.errors import MeasurementError, UsageError
from rmeeto_bench.retrain.augment import random_flip, random_shift
from rmeeto_bench.retrain.loop import Watch, distillation_loss, learning_rate, parameter_groups, train, training_batches
from rmeeto_bench.retrain.recipe import RECIPES, recipe
from rmeeto_bench.retrain.session import Session, train_one

TINY = {"depth": 4, "embed_dim": 16, "img_size": 14}
FAST = replace(recipe("nano_retrain"), epochs=1, batch_size=16, img_size=14, lr=3e-3)


@pytest.fixture(scope="module")
def data() -> TensorSet:
    return fashion_mnist.load("test").subset(320)


def test_the_rate_warms_up_and_ends_at_its_minimum() -> None:
    chosen = replace(FAST, warmup_epochs=0.5, lr=1.0, min_lr=0.1)
    rates = [learning_rate(chosen, step, 100, 20) for step in range(100)]
    assert rates[0] < rates[5] < rates[9] < 1
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_training_is_reproducible_and_learns(data: TensorSet) -> None:
    outcomes = []
    for _ in range(2):
        torch.manual_seed(0)
        model = rb.create_model("vim_nano", r=5, **TINY)
        outcomes.append(train(model, data, replace(FAST, epochs=3), Watch(every=5)))
    losses = [[line.loss for line in outcome.log] for outcome in outcomes]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.2
    assert outcomes[0].images == 3 * 320
    assert not model.training


def test_every_image_is_seen_once_an_epoch_and_in_another_order_the_next(data: TensorSet) -> None:
    numbered = replace(data, pixels=torch.arange(320).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).to(torch.int32))
    plain = replace(FAST, img_size=None, crop_padding=0, flip=False)
    seen = [
        [
            int(v)
            for images, _ in training_batches(numbered, plain, epoch)
            for v in (images[:, 0, 0, 0] * 0.353 + 0.286) * 255 + 0.5
        ]
        for epoch in (0, 1)
    ]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(320))
    assert seen[0] != seen[1]


def test_the_self_teacher_is_frozen_and_changes_the_loss(data: TensorSet) -> None:
    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        return rb.create_model("vim_nano", r=5, **TINY)

    teacher = build()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    alone = train(build(), data, replace(FAST, epochs=0.2), Watch(every=1))
    taught = train(build(), data, replace(FAST, epochs=0.2, teacher="self"), Watch(every=1), teacher)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert taught.log[-1].loss != alone.log[-1].loss


def test_distillation_is_the_divergence_from_teacher_to_student() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(distillation_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_a_diverging_run_stops_with_a_reason(data: TensorSet) -> None:
    model = rb.create_model("vim_nano", **TINY)
    with torch.no_grad():
        model.head.weight.fill_(float("inf"))
    with pytest.raises(MeasurementError, match="lower the learning rate"):
        train(model, data, FAST, Watch(every=2))


def test_stopping_keeps_what_was_trained(data: TensorSet) -> None:
    model = rb.create_model("vim_nano", **TINY)
    steps = []
    outcome = train(model, data, FAST, Watch(should_stop=lambda: steps.append(1) or len(steps) == 3))
    assert outcome.interrupted
    assert outcome.steps == 3


def test_weight_decay_leaves_vectors_alone_where_the_recipe_says_so() -> None:
    model = rb.create_model("vim_nano", **TINY)
    decayed, rest = parameter_groups(model, recipe("nano_full"))
    assert decayed["weight_decay"] > 0 == rest["weight_decay"]
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert len(parameter_groups(model, recipe("nano_retrain"))) == 1


def test_augmentation_moves_pixels_but_invents_none() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(1, 65).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    shifted = random_shift(images, 2, generator)
    assert set(shifted.unique().tolist()) <= set(range(65))
    assert len({tuple(image.flatten().tolist()) for image in shifted}) > 10
    flipped = random_flip(images, generator)
    assert {tuple(image.flatten().tolist()) for image in flipped} == {
        tuple(images[0].flatten().tolist()),
        tuple(images[0].flip(2).flatten().tolist()),
    }


def test_recipes_have_their_own_names_and_bad_ones_are_refused() -> None:
    assert all(build().name == name for name, build in RECIPES.items())
    with pytest.raises(UsageError, match="nano_retrain"):
        recipe("none")
    with pytest.raises(UsageError):
        replace(FAST, epochs=0)


def test_a_session_writes_a_checkpoint_that_says_how_it_was_made(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = generator.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(i % 10 for i in range(count))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    low = Session("vim_nano", replace(FAST, batch_size=20, epochs=0.5), tmp_path, None, "auto", tmp_path / "low")
    first = train_one(low, 0, lambda _: None, lambda: False)
    full = replace(low, recipe=replace(low.recipe, img_size=None), init=str(first.checkpoint), out=tmp_path / "out")
    second = train_one(full, 5, lambda _: None, lambda: False)
    provenance = read_checkpoint(second.checkpoint).provenance
    assert (provenance.trained_r, provenance.metadata["model"]) == (5, "vim_nano")
    lines = [json.loads(line) for line in second.log.read_text().splitlines()]
    assert lines[0]["recipe"]["name"] == "nano_retrain"
    assert lines[-1]["top1"] == pytest.approx(second.top1)
    rb.load_checkpoint(rb.create_model("vim_nano", r=5), second.checkpoint)
