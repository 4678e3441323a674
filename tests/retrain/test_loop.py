"""The training loop against closed forms: losses, accumulation, averages, resuming, determinism."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from golden_data import COMPACT
from safetensors.torch import load_file
from small_sets import tiny_recipe
from torch import nn

import rmeeto_bench as rb
from rmeeto_bench.data.image_set import TensorSet
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import CheckpointError, DataError, MeasurementError
from rmeeto_bench.kernels.registry import _select
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.retrain.distill import distillation_loss, prepare_teacher, training_loss
from rmeeto_bench.retrain.distributed import World
from rmeeto_bench.retrain.feed import Feed
from rmeeto_bench.retrain.loop import Trainer, TrainingEnd, TrainingWatch, top1
from rmeeto_bench.retrain.optimiser import Stepper
from rmeeto_bench.retrain.recipe import Optimisation, Recipe, Teacher

CPU = World(torch.device("cpu"))
SHAPE = (1, 14, 14)
GOLDEN = load_file(COMPACT / "distill_loss.safetensors")


@pytest.fixture(scope="module")
def data() -> TensorSet:
    return fashion_mnist.load("test").subset(160)


def tiny_model(r: int = 5, drop_path_rate: float = 0.0) -> Vim:
    torch.manual_seed(0)
    return rb.create_model("vim_nano", r=r, depth=4, embed_dim=16, img_size=14, drop_path_rate=drop_path_rate)


def trained(data: TensorSet, recipe: Recipe, watch: TrainingWatch | None = None, **model: Any) -> tuple[Trainer, TrainingEnd]:
    teacher = None
    if recipe.teacher.source == "self":
        teacher = prepare_teacher(tiny_model(0, **model), recipe.teacher)
    trainer = Trainer(tiny_model(**model), Feed(data, SHAPE, recipe, CPU), teacher)
    return trainer, trainer.run(watch or TrainingWatch(every=2))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def losses(outcome: TrainingEnd) -> list[float]:
    return [line.loss for line in outcome.log]


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize(
    ("base", "smoothing", "soft"), [("ce", 0.0, False), ("label_smoothing0.1", 0.1, False), ("soft", 0.1, True)]
)
def test_distillation_equals_upstreams_loss_and_gradient(base: str, smoothing: float, soft: bool, weight: float) -> None:
    logits = GOLDEN["pred"].clone().requires_grad_()
    targets = GOLDEN["soft_targets"] if soft else GOLDEN["labels"].long()
    alone = training_loss(logits, targets, smoothing, None, weight)
    loss = training_loss(logits, targets, smoothing, GOLDEN["teacher_logits"], weight)
    loss.backward()
    stem = f"{base}_dw{weight}"
    assert torch.allclose(alone, GOLDEN[f"{stem}/base_loss"], atol=1e-6)
    assert torch.allclose(loss, GOLDEN[f"{stem}/loss"], atol=1e-6)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, GOLDEN[f"{stem}/pred_grad"], atol=1e-7)


def test_distillation_is_the_divergence_from_teacher_to_student() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(distillation_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_training_is_reproducible_and_learns(data: TensorSet) -> None:
    recipe = tiny_recipe(schedule__epochs=4, drop_path_rate=0.1, augmentation__erasing=0.2)
    first, one = trained(data, recipe, drop_path_rate=0.1)
    second, two = trained(data, recipe, drop_path_rate=0.1)
    assert losses(one) == losses(two)
    assert same(first.model, second.model)
    assert one.log[-1].loss < one.log[0].loss - 0.05
    assert one.images == 4 * 160
    assert not first.model.training
    other = trained(data, tiny_recipe(schedule__epochs=4, drop_path_rate=0.1, seed=1), drop_path_rate=0.1)[1]
    assert losses(other) != losses(one)


@pytest.mark.parametrize("steps", [3, 4, 7])
def test_a_resumed_run_ends_as_an_uninterrupted_one(data: TensorSet, steps: int) -> None:
    recipe = tiny_recipe(
        drop_path_rate=0.1,
        augmentation__mixup=0.2,
        ema_decay=0.5,
        optimisation__accumulation=2,
        optimisation__batch_size=8,
    )
    whole, outcome = trained(data, recipe, drop_path_rate=0.1)
    states: list[dict[str, Any]] = []
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) == steps

    first, part = trained(
        data, recipe, TrainingWatch(every=2, should_stop=stop, save=lambda _, s: states.append(s)), drop_path_rate=0.1
    )
    assert part.interrupted
    assert part.steps == steps
    resumed = Trainer(tiny_model(drop_path_rate=0.1), Feed(data, SHAPE, recipe, CPU))
    resumed.load(copy.deepcopy(states[-1]))
    assert losses(resumed.run(TrainingWatch(every=2))) == losses(outcome)
    assert same(resumed.model, whole.model)
    assert same(resumed.weights, whole.weights)
    assert not same(first.model, whole.model)


def test_a_step_that_is_interrupted_is_left_out_and_the_state_before_it_saved(data: TensorSet) -> None:
    recipe = tiny_recipe(optimisation__accumulation=2, optimisation__batch_size=8, ema_decay=0.5)
    whole, outcome = trained(data, recipe)
    states: list[dict[str, Any]] = []
    calls: list[int] = []

    def strike(*_: object) -> None:
        calls.append(1)
        if len(calls) == 8:  # the second half of the fourth step
            raise KeyboardInterrupt

    trainer = Trainer(tiny_model(), Feed(data, SHAPE, recipe, CPU))
    trainer.model.register_forward_hook(strike)
    part = trainer.run(TrainingWatch(every=2, save=lambda _, state: states.append(copy.deepcopy(state))))
    assert (part.interrupted, part.steps, states[-1]["step"]) == (True, 3, 3)
    resumed = Trainer(tiny_model(), Feed(data, SHAPE, recipe, CPU))
    resumed.load(states[-1])
    assert losses(resumed.run(TrainingWatch(every=2))) == losses(outcome)
    assert same(resumed.weights, whole.weights)


def test_weights_between_two_steps_are_never_saved(data: TensorSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(stepper: Stepper) -> None:
        stepper.optimizer.step()
        raise KeyboardInterrupt

    monkeypatch.setattr(Stepper, "step", strike)
    saved: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        trained(data, tiny_recipe(), TrainingWatch(save=lambda step, _: saved.append(step)))
    assert not saved


def test_a_state_of_another_recipe_is_refused_naming_the_difference(data: TensorSet) -> None:
    trainer, _ = trained(data, tiny_recipe(schedule__epochs=0.2))
    other = Trainer(tiny_model(), Feed(data, SHAPE, tiny_recipe(schedule__epochs=0.5), CPU))
    with pytest.raises(CheckpointError, match=r"epochs=0.2 then, epochs=0.5 now"):
        other.load(trainer.state())


def test_accumulation_is_the_step_of_the_whole_batch(data: TensorSet) -> None:
    plain = {"schedule__epochs": 0.3, "augmentation__crop": "none", "augmentation__flip": False}
    whole, _ = trained(data, tiny_recipe(**plain))
    parts, outcome = trained(data, tiny_recipe(**plain, optimisation__batch_size=4, optimisation__accumulation=4))
    assert outcome.steps == 3
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


class _Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))


def test_upstreams_accumulation_takes_three_steps_per_two_micro_batches() -> None:
    model, reference = _Scalar(), torch.tensor([1.0], requires_grad=True)
    stepper = Stepper(model, Optimisation(2, accumulation=2, upstream_accumulation=True), torch.device("cpu"))
    adam = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.05)
    for g1, g2 in ((3.0, -1.0), (0.5, 2.0)):
        stepper.set_rate(0.1)
        stepper.backward(g1 * model.w.sum(), 0)
        stepper.backward(g2 * model.w.sum(), 1)
        stepper.step()
        second = g2 / 2 + g1 / 2 / 65536
        for gradient in (g1 / 2, second, second):
            reference.grad = torch.tensor([gradient])
            adam.step()
    assert torch.allclose(model.w, reference, atol=1e-6)


def test_the_average_of_the_weights_follows_its_formula(data: TensorSet) -> None:
    decay, seen = 0.7, list[torch.Tensor]()
    trainer = Trainer(tiny_model(), Feed(data, SHAPE, tiny_recipe(ema_decay=decay, schedule__epochs=0.4), CPU))
    head = trainer.model.get_parameter("head.weight")
    expected = head.detach().clone()
    trainer.run(TrainingWatch(every=1, on_progress=lambda _: seen.append(head.detach().clone())))
    for weight in seen:
        expected = decay * expected + (1 - decay) * weight
    assert len(seen) == 4
    assert torch.allclose(trainer.weights.get_parameter("head.weight"), expected, atol=1e-6)
    assert not torch.allclose(head, expected, atol=1e-4)


def test_the_teacher_is_frozen_in_eval_and_stochastic_under_upstream(data: TensorSet) -> None:
    teacher = prepare_teacher(tiny_model(0, drop_path_rate=0.9), Teacher("self"))
    images = torch.randn(4, 1, 14, 14)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(teacher(images), teacher(images))
    loose = prepare_teacher(tiny_model(0, drop_path_rate=0.9), Teacher("self", train_mode=True))
    assert not torch.equal(loose(images), loose(images))
    alone = trained(data, tiny_recipe(schedule__epochs=0.2))[1]
    taught = trained(data, tiny_recipe(schedule__epochs=0.2, teacher__source="self"))[1]
    assert taught.log[-1].loss != alone.log[-1].loss


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_near_fp32(data: TensorSet, precision: str) -> None:
    full = trained(data, tiny_recipe(schedule__epochs=0.5))[1]
    _select.cache_clear()  # as in a process of its own: the kernels are tested in the first forward, under autocast
    low = trained(data, tiny_recipe(schedule__epochs=0.5, optimisation__precision=precision))[1]
    assert low.log[0].loss != full.log[0].loss
    assert low.log[-1].loss == pytest.approx(full.log[-1].loss, abs=0.1)


def test_a_diverging_run_stops_with_a_reason(data: TensorSet) -> None:
    trainer = Trainer(tiny_model(), Feed(data, SHAPE, tiny_recipe(), CPU))
    with torch.no_grad():
        trainer.model.get_parameter("head.weight").fill_(float("inf"))
    with pytest.raises(MeasurementError, match="lower the learning rate"):
        trainer.run(TrainingWatch(every=2))


def test_too_few_images_for_a_step_are_an_error(data: TensorSet) -> None:
    with pytest.raises(DataError, match="do not fill one step of 512"):
        Feed(data, SHAPE, tiny_recipe(optimisation__batch_size=512), CPU)


def test_top1_counts_every_image_once(data: TensorSet) -> None:
    class First(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    assert top1(First(), ((batch.images, batch.labels) for batch in data.batches(33))) == pytest.approx(
        100 * float((data.labels == 0).float().mean())
    )
