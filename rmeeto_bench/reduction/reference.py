"""The paper's merge on one screen: its default settings, written for reading, not for speed.

The general code (`matching`, `merging`) and every kernel are tested against this function.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge(hidden: Tensor, residual: Tensor, size: Tensor, cls_position: int, r: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Merge the `r` closest even patches into odd ones, image by image, and keep the order (paper section 3).

    hidden [B, L, C], residual [B, L, C], size [B, L, 1]: the tokens each row stands for. Returns them with L - r rows, and
    the new row of the class token, which never merges. `r` is at most half of the patches.
    """
    if r == 0:
        return hidden, residual, size, cls_position
    length = hidden.shape[1]
    patches = [row for row in range(length) if row != cls_position]
    sources, destinations = patches[0::2], patches[1::2]
    new_cls_position = cls_position * (length - r) // length
    merged = []
    for image in range(hidden.shape[0]):
        unit = torch.nn.functional.normalize(hidden[image].float(), dim=-1, eps=1e-30)
        scores = unit[sources] @ unit[destinations].T  # [S, T], cosine similarity
        best, closest = scores.max(dim=1)
        chosen = best.argsort(descending=True, stable=True)[:r].tolist()

        groups = {row: [row] for row in range(length)}  # surviving row -> rows it stands for afterwards
        for source in chosen:
            target = destinations[int(closest[source])]
            groups[target] += groups.pop(sources[source])
        order = [row for row in groups if row != cls_position]  # the original order
        order.insert(new_cls_position, cls_position)

        weight = size[image]
        mean = [
            [(rows[group] * weight[group]).sum(0) / weight[group].sum() for group in map(groups.get, order)]
            for rows in (hidden[image].float(), residual[image].float())
        ]
        total = [weight[groups[row]].sum(0) for row in order]
        merged.append((torch.stack(mean[0]), torch.stack(mean[1]), torch.stack(total)))
    new_hidden, new_residual, new_size = (torch.stack(parts) for parts in zip(*merged))
    return new_hidden.to(hidden.dtype), new_residual.to(residual.dtype), new_size, new_cls_position
