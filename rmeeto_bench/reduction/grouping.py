"""Which tokens may merge into which: the two halves of the patch tokens, and the shuffle before a merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.reduction.config import Ablation


@dataclass(frozen=True)
class Groups:
    """The two halves of the patch tokens, by indices that leave the class token out."""

    sources: Tensor  # [B, S] indices of the tokens that may merge, ascending
    destinations: Tensor  # [B, T] indices of the tokens they may merge into, ascending
    strided: bool  # the sources are the even tokens and the destinations the odd ones, so slices can replace gathers

    def split(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of patches [B, P, F] by group: [B, S, F] and [B, T, F]."""
        if self.strided:
            return patches[:, 0::2], patches[:, 1::2]
        wide = (-1, -1, patches.shape[2])
        return tuple(patches.gather(1, index[..., None].expand(wide)) for index in (self.sources, self.destinations))  # type: ignore[return-value]


def group(batch: int, patches: int, ablation: Ablation, generator: torch.Generator | None, device: torch.device) -> Groups:
    """Halve `patches` tokens; the sources have one more where the number is odd. `random` draws for each image."""
    if ablation.grouping == "random":
        order = torch.rand(batch, patches, generator=generator).argsort(1).to(device)
    else:
        index = torch.arange(patches, device=device)
        order = torch.cat([index[0::2], index[1::2]]) if ablation.grouping == "odd_even" else index
        order = order.expand(batch, -1)
    sources = -(-patches // 2)
    halves = order[:, :sources], order[:, sources:]
    if ablation.grouping == "random":
        halves = halves[0].sort(1).values, halves[1].sort(1).values
    return Groups(*halves, strided=ablation.grouping == "odd_even")


def shuffled_rows(patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """A permutation [P] of which floor(P * ratio) positions, drawn uniformly, take part (some may stay where they are).

    The two draws are those of upstream's shuffle class, in its order.
    """
    count = int(patches * ratio)
    picked = torch.randperm(patches, generator=generator)[:count]
    rows = torch.arange(patches)
    rows[picked] = picked[torch.randperm(count, generator=generator)]
    return rows


def shuffle_patches(
    tensors: tuple[Tensor | None, ...], cls_position: int, ratio: float, generator: torch.Generator
) -> tuple[Tensor | None, ...]:
    """Rows of several [B, L, *] tensors in one shuffled order, the same for all images; the class token stays.

    Paper equation 8: `ratio` = shuffled patches / patches.
    """
    first = next(x for x in tensors if x is not None)
    patches = torch.arange(first.shape[1])
    patches = patches[patches != cls_position]
    rows = torch.arange(first.shape[1])
    rows[patches] = patches[shuffled_rows(len(patches), ratio, generator)]
    rows = rows.to(first.device)
    return tuple(None if x is None else x[:, rows] for x in tensors)
