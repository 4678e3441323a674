"""Learning rates, parameter groups, and the optimizer step in all its variants."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rmeeto_bench.retrain.recipe import Optimisation, Schedule

EMBEDDINGS = ("pos_embed", "cls_token", "temporal_pos_embedding")
UPSTREAM_SCALE = 65536.0  # the initial factor of torch's loss scaling, by which upstream divides the older gradients again


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step `step` of `steps`, `peak` being the top of the schedule (see `Schedule`)."""
    if schedule.shape == "upstream_epoch":
        late = max(0, step // steps_per_epoch - 1)
        progress = late / schedule.epochs
        return schedule.min_lr + (peak - schedule.min_lr) * (1 + math.cos(math.pi * progress)) / 2
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return schedule.min_lr + (peak - schedule.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def _decays(name: str, parameter: Tensor, rule: str) -> bool:
    if rule == "all":
        return True
    kept = parameter.dim() >= 2 and not name.endswith(("_embed", "_token", "temporal_pos_embedding"))
    return kept and (rule == "video_matrices" or not name.endswith("_log"))


def parameter_groups(model: nn.Module, settings: Optimisation) -> list[dict]:
    """Optimizer groups by weight decay and by `rate`, the factor on the learning rate."""
    depth = len(model.layers) if isinstance(getattr(model, "layers", None), nn.ModuleList) else 0  # type: ignore[arg-type]
    low = settings.layer_decay ** (depth + 1)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        embeds = name in EMBEDDINGS or name.startswith("patch_embed.")
        key = (_decays(name, parameter, settings.decay_on), low if embeds else 1.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, "rate": rate}
        for (decays, rate), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


class Stepper:
    """Optimizer, loss scaling and accumulation together: feed it micro-batch losses, it steps when it is time.

    Correct accumulation steps once per `accumulation` micro-batches on the mean gradient. Upstream's steps after every
    micro-batch and once more after the second; it never clears gradients in between, but divides the older ones by the
    loss scale, so that the three steps see g1/2, g2/2 + g1/131072 and the same again.
    """

    def __init__(self, model: nn.Module, settings: Optimisation, device: torch.device) -> None:
        self._settings, self._parameters = settings, [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=0.0, betas=settings.betas, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    def set_rate(self, rate: float) -> None:
        """The learning rate of the coming step, by group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]

    def backward(self, loss: Tensor, number: int) -> None:
        """Micro-batch `number` (0-based within the step) backwards; `loss` is its mean."""
        if self._settings.upstream_accumulation and number:
            torch._foreach_div_([p.grad for p in self._parameters if p.grad is not None], UPSTREAM_SCALE)
        self.scaler.scale(loss / self._settings.accumulation).backward()
        if self._settings.upstream_accumulation:
            self.optimizer.step()

    def step(self) -> None:
        """After the last micro-batch: clip, step, clear."""
        if self._settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip(self._parameters, self._settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict:
        """For a training state; plain tensors and numbers."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load(self, state: dict) -> None:
        """Take up a stored state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def clip(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """Scale all gradients down together to this total norm."""
    nn.utils.clip_grad_norm_(parameters, norm)
