"""The loss: cross-entropy on labels or distributions, and the divergence from the unmerged teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmeeto_bench.retrain.recipe import Teacher


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) at temperature 1, averaged over the batch. logits [B, classes]."""
    return F.kl_div(logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="batchmean", log_target=True)


def training_loss(
    logits: Tensor, targets: Tensor, label_smoothing: float, teacher_logits: Tensor | None, weight: float
) -> Tensor:
    """Mean cross-entropy plus `weight` times the distillation loss where there is a teacher (upstream's image task).

    logits [B, classes] in any float dtype, computed on in fp32 · targets int64 [B], or probabilities [B, classes], which
    are taken as they are (mixup has smoothed them already).
    """
    logits = logits.float()
    smoothing = label_smoothing if targets.dim() == 1 else 0.0
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if teacher_logits is None:
        return loss
    return loss + weight * distillation_loss(logits, teacher_logits.float())


def prepare_teacher(model: nn.Module, settings: Teacher) -> nn.Module:
    """Freeze the teacher, in eval mode, or in train mode (its drop path on) where the settings say so."""
    return model.requires_grad_(False).train(settings.train_mode)


@torch.no_grad()
def teacher_logits(teacher: nn.Module | None, images: Tensor) -> Tensor | None:
    """What the teacher says about the same, already augmented, images."""
    return None if teacher is None else teacher(images)
