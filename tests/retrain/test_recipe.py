"""Recipes: the released schedule to the last digit, the corrected one, overriding fields, refusing what cannot be."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from golden_data import COMPACT

import rmeeto_bench as rb
from rmeeto_bench.errors import UsageError
from rmeeto_bench.retrain.optimiser import learning_rate, parameter_groups
from rmeeto_bench.retrain.presets import PRESETS, preset
from rmeeto_bench.retrain.recipe import Recipe, changed

UPSTREAM = json.loads((COMPACT / "lr_schedule.json").read_text(encoding="utf-8"))["schedules"]


def _numbers(name: str) -> dict[str, float]:
    """`epochs3_lr2e-05_bs128_world4_minlr1e-06` -> {"epochs": 3, ...}."""
    keys = ("minlr", "epochs", "lr", "bs", "world")
    found = {}
    for word in name.split("_"):
        key = next(key for key in keys if word.startswith(key))
        found[key] = float(word.removeprefix(key))
    return found


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstream_exact_has_the_released_learning_rates(name: str) -> None:
    numbers, expected = _numbers(name), UPSTREAM[name]
    changes = {
        "schedule.epochs": int(numbers["epochs"]),
        "schedule.lr": numbers["lr"],
        "schedule.min_lr": numbers["minlr"],
        "optimisation.batch_size": int(numbers["bs"]),
    }
    recipe = changed(preset("upstream_exact"), changes)
    peak = recipe.peak_lr(int(numbers["world"]))
    assert peak == pytest.approx(expected["effective_base_lr"], rel=1e-12)
    per_epoch = 7
    steps = int(numbers["epochs"]) * per_epoch
    used = [learning_rate(recipe.schedule, peak, step, steps, per_epoch) for step in range(steps)]
    assert used == pytest.approx([rate for rate in expected["lr_used_in_epoch"] for _ in range(per_epoch)], rel=1e-9)


def test_the_correct_schedule_warms_up_and_ends_at_its_minimum() -> None:
    schedule = replace(preset("nano").schedule, warmup_epochs=0.5, lr=1.0, min_lr=0.1)
    rates = [learning_rate(schedule, 1.0, step, 100, 20) for step in range(100)]
    assert rates[0] < rates[5] < rates[9] < 1
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_the_papers_rates_are_for_its_batches() -> None:
    assert preset("paper").samples_per_step(4) == 1024
    assert preset("paper").peak_lr(4) == pytest.approx(2e-5)
    assert preset("paper").peak_lr(8) == pytest.approx(4e-5)
    assert preset("video_paper").samples_per_step(4) == 512  # 256 videos, each twice
    assert preset("video_paper").peak_lr(4) == pytest.approx(4e-5)


def test_presets_have_their_own_names_are_frozen_and_print_what_they_are() -> None:
    for name, build in PRESETS.items():
        recipe = build()
        assert recipe.name == name
        assert "batch_size" in repr(recipe)
        with pytest.raises(FrozenInstanceError):
            recipe.seed = 1  # type: ignore[misc]
    with pytest.raises(UsageError, match="nano_retrain"):
        preset("none")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("schedule.epochs", "2.5", 2.5),
        ("optimisation.batch_size", "8", 8),
        ("optimisation.clip_norm", "none", None),
        ("optimisation.betas", "(0.9, 0.95)", (0.9, 0.95)),
        ("augmentation.flip", "false", False),
        ("augmentation.randaugment", "rand-m5-n2", "rand-m5-n2"),
        ("ema_decay", "0.996", 0.996),
        ("teacher.source", "self", "self"),
    ],
)
def test_every_field_can_be_set_from_text(field: str, text: str, value: object) -> None:
    found: object = changed(preset("nano"), {field: text})
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("schedule.epoch", "2", "epochs"),
        ("schedule", "2", "group"),
        ("seed.x", "2", "single value"),
        ("optimisation.batch_size", "2.5", "int"),
        ("augmentation.flip", "2", "bool"),
        ("schedule.epochs", "-1", "positive"),
        ("optimisation.precision", "fp8", "bf16"),
        ("fraction", "0", r"\(0, 1\]"),
        ("ema_decay", "1.5", "ema_decay"),
        ("optimisation.upstream_accumulation", "true", "2 micro-batches"),
        ("name", "x", "no name"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(field: str, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        changed(preset("nano"), {field: text})
    assert "\n" not in str(caught.value)


def test_mixing_needs_pairs_and_upstreams_schedule_no_warmup() -> None:
    with pytest.raises(UsageError, match="even"):
        changed(preset("nano"), {"optimisation.batch_size": 7, "augmentation.mixup": 0.8})
    with pytest.raises(UsageError, match="warm-up"):
        changed(preset("upstream_exact"), {"schedule.warmup_epochs": 1})


def _groups(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Parameter -> (weight decay, factor on the rate)."""
    model = rb.create_model("vim_nano", depth=4, embed_dim=16, img_size=14)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, recipe.optimisation)
    found = {names[id(p)]: (group["weight_decay"], group["rate"]) for group in groups for p in group["params"]}
    assert set(found) == set(names.values())
    return found


def test_weight_decay_and_layer_decay_reach_the_right_parameters() -> None:
    assert set(_groups(preset("paper")).values()) == {(0.05, 1.0)}
    for name, (decay, rate) in _groups(preset("video_paper")).items():
        assert rate == pytest.approx(0.75**5 if name.startswith(("patch_embed", "pos_embed", "cls_token")) else 1.0)
        assert (decay > 0) == ((name.endswith("weight") and "norm" not in name) or name.endswith("_log"))
    nano = _groups(preset("nano_full"))
    assert nano["layers.0.mixer.A_log"] == nano["pos_embed"] == nano["head.bias"] == (0.0, 1.0)
    assert nano["layers.0.mixer.in_proj.weight"] == (0.05, 1.0)
