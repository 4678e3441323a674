"""Arms that train: a step is forward, loss, backward, clipping and AdamW, as the model's recipe has them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle

import torch
from torch import Tensor

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.session.built_arm import DTYPES, BuiltArm, Setting, loaded
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.retrain.distill import prepare_teacher, teacher_logits, training_loss
from rmeeto_bench.retrain.optimiser import Stepper
from rmeeto_bench.retrain.presets import recipe_for

RATE = 1e-6  # of learning: weights hardly move, so that every round has the same work


def build_training(cell: Cell, setting: Setting, resolved: Resolved) -> BuiltArm:
    """Build one arm for training on its device, in fp32; half precision is the forward's alone. Raises as `build`."""
    model = create_model(
        cell.model,
        reduction=cell.reduction,
        backend=setting.backend,
        num_classes=resolved.num_classes,
        drop_path_rate=recipe_for(cell.model).drop_path_rate,
    )
    weights = resolved.weights[cell.name]
    provenance = loaded(model, weights)
    model = model.to(setting.device.torch_device).train()
    _ = model.kernels_name  # refuse a backend that cannot run before anything is measured
    return BuiltArm(cell, model, weights.label, provenance, model, weights.known_by)


class TrainingStep:
    """One optimizer step on the next resident batch, as the timing loop calls it. Labels are random."""

    def __init__(self, arm: BuiltArm, batches: list[Tensor], setting: Setting) -> None:
        self._arm, self._setting, self._recipe = arm, setting, recipe_for(arm.cell.model)
        device = setting.device.torch_device
        self._stepper = Stepper(arm.model, self._recipe.optimisation, device)
        self._stepper.set_rate(RATE)
        classes = arm.model.config.num_classes
        generator = torch.Generator().manual_seed(0)
        labelled = [(batch, torch.randint(classes, (len(batch),), generator=generator).to(device)) for batch in batches]
        self._batches = cycle(labelled)
        self._teacher = None
        if self._recipe.teacher.source == "self":
            teacher = create_model(arm.cell.model, backend=setting.backend, num_classes=classes)
            teacher.load_state_dict(arm.model.state_dict())
            self._teacher = prepare_teacher(teacher.to(device), self._recipe.teacher)

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = DTYPES[self._setting.precision]
        return torch.autocast(self._setting.device.torch_device.type, dtype, enabled=dtype != torch.float32)

    def __call__(self) -> Tensor:
        """The loss, still on the device."""
        images, labels = next(self._batches)
        with self._autocast():
            taught = teacher_logits(self._teacher, images)
            logits = self._arm.model(images)
        loss = training_loss(logits, labels, self._recipe.augmentation.label_smoothing, taught, self._recipe.teacher.weight)
        self._stepper.backward(loss, 0)
        self._stepper.step()
        return loss.detach()
