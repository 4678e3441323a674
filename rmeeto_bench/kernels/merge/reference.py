"""The paper's merge, defined image by image: cosine matching of even with odd patches, size-weighted mean, order kept."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.merge.plan import MergePlan


def match(metric: Tensor, cls_position: int, moved: int, r: int) -> MergePlan:
    """Choose the r closest (even, odd) pairs of patches of every image; ties go to the lowest index.

    metric [B, L, F], any float dtype, scores fp32 · cls_position: row of the class token, which takes no part · moved:
    the row it gets afterwards (the caller's rule) · 0 < r <= number of even patches.
    """
    batch, length, _ = metric.shape
    rows = [row for row in range(length) if row != cls_position]
    values = metric.to(torch.promote_types(metric.dtype, torch.float32))
    plans = []
    for image in range(batch):
        patches = values[image, rows]
        unit = patches / patches.norm(dim=1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
        best, nearest = (unit[0::2] @ unit[1::2].T).max(dim=1)
        chosen = best.argsort(descending=True, stable=True)[:r].tolist()
        gone = {2 * source for source in chosen}
        order = [row for index, row in enumerate(rows) if index not in gone]
        order.insert(moved, cls_position)
        gone_rows = [rows[2 * source] for source in chosen]
        targets = [order.index(rows[2 * int(nearest[source]) + 1]) for source in chosen]
        plans.append((order, gone_rows, targets))
    parts = zip(*plans, strict=True)
    survivors, merged, slots = (torch.tensor(part, dtype=torch.int32, device=metric.device) for part in parts)
    return MergePlan(survivors, merged, slots, moved)


def merge_add_norm(
    streams: tuple[Tensor, Tensor], size: Tensor | None, plan: MergePlan, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge hidden and residual [B, L, C] by the plan, add them, normalise: (normed, residual fp32, size [B, L - r, 1]).

    Merging is linear, so the sum of both is merged once: sum(size (h + r)) / sum(size) over each group. size [B, L, 1]
    fp32, None for ones. `normed` has the dtype of hidden.
    """
    hidden, residual = streams
    total = hidden.float() + residual.float()
    weights = torch.ones_like(total[..., :1]) if size is None else size
    keep, gone, slots = plan.survivors.long(), plan.merged.long(), plan.slots.long()[..., None]
    old = weights.gather(1, keep[..., None])
    new_size = old.scatter_add(1, slots, weights.gather(1, gone[..., None]))
    wide = total.shape[2]
    own = total.gather(1, keep[..., None].expand(-1, -1, wide))
    extra = (total * weights).gather(1, gone[..., None].expand(-1, -1, wide))
    folded = (own * old).scatter_add(1, slots.expand(-1, -1, wide), extra) / new_size
    merged = torch.where(new_size == old, own, folded)
    normed, _ = add_norm_reference.add_norm(merged, None, weight, eps)
    return normed.to(hidden.dtype), merged, new_size
