"""Which tokens merge: a bipartite matching of patch tokens, decided once and applied to any number of tensors.

Patch tokens are indexed without the class token; even ones are sources, odd ones destinations (paper section 3), unless
an ablation groups them otherwise.
Everything is batched, gradient-free and free of host synchronisation. Ties go to the lowest index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.distances import DISTANCES
from rmeeto_bench.reduction.grouping import Groups, group
from rmeeto_bench.reduction.schedule import moved_cls_position


@dataclass(frozen=True)
class Matching:
    """Which rows of a [B, L, *] tensor survive and which merge. Indices are int64 and count rows flattened over the batch."""

    survivors: Tensor  # [B (L - r)] input row that each output row starts from
    merged: Tensor  # [B r] input rows that disappear
    targets: Tensor  # [B r] input rows they merge into
    slots: Tensor  # [B r] output rows of those targets
    length_out: int  # tokens that each sample has afterwards, L - r
    cls_position: int | Tensor  # class token's place in the output: one for all samples, or one per sample [B] (exact rank)


def unit_rows(metric: Tensor) -> Tensor:
    """Rows scaled to unit length in fp32 (float64 stays). A zero row stays zero, where upstream gets NaN."""
    metric = metric.to(torch.promote_types(metric.dtype, torch.float32))
    return metric / metric.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(metric.dtype).tiny)


def similarity(sources: Tensor, destinations: Tensor, config: ReductionConfig, dtype: torch.dtype) -> Tensor:
    """Scores [B, S, T] of unit rows [B, S, F] and [B, T, F] by the configured distance. `dtype` is the metric's own."""
    if config.distance == "cosine" and config.score_dtype == "input":
        sources, destinations = sources.to(dtype), destinations.to(dtype)
    return DISTANCES[config.distance](sources, destinations)


def choose(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Per source the score and the index of its k-th closest destination, both [B, S]."""
    if k == 1:
        return scores.max(dim=-1)
    ordered, index = scores.sort(dim=-1, descending=True, stable=True)
    k = min(k, scores.shape[-1])
    return ordered[..., k - 1], index[..., k - 1]


def _patch_rows(length: int, cls_position: int | Tensor | None, device: torch.device) -> Tensor:
    """Input row of every class-free index, [1, P] or [B, P]."""
    if cls_position is None:
        return torch.arange(length, device=device)[None]
    index = torch.arange(length - 1, device=device)[None]  # [1, P]
    position = cls_position if isinstance(cls_position, int) else cls_position[:, None]
    return index + (index >= position).long()


@torch.no_grad()
def match(
    metric: Tensor,
    cls_position: int | Tensor | None,
    r: int,
    config: ReductionConfig,
    *,
    fixed_first: bool = False,
) -> Matching:
    """Match metric [B, L, F] and choose the r closest sources; 0 < r <= number of sources.

    The token at `cls_position` takes no part; None means there is none to leave out. `fixed_first` keeps source 0 from
    being chosen (a ViT's class token).
    """
    batch, length, _ = metric.shape
    rows = _patch_rows(length, cls_position, metric.device)  # [1 or B, P]
    every = rows.expand(batch, -1)
    unit = unit_rows(metric)
    patches = unit[:, rows[0]] if rows.shape[0] == 1 else unit.gather(1, every[..., None].expand(-1, -1, unit.shape[2]))
    generator = torch.Generator().manual_seed(config.ablation.seed) if config.ablation.stochastic else None
    groups = group(batch, rows.shape[1], config.ablation, generator, metric.device)
    scores = similarity(*groups.split(patches), config, metric.dtype)  # [B, S, T]
    if fixed_first:
        scores[:, 0] = -torch.inf
    best, destination = choose(scores, config.choose_k)
    if config.ablation.destinations == "random":
        destination = torch.randint(scores.shape[2], destination.shape, generator=generator).to(destination.device)
    if config.ablation.sources == "random":
        best = torch.rand(best.shape, generator=generator).to(best.device)
        best[:, 0] -= 1.0 * fixed_first  # below every draw
    by_score = best.argsort(dim=-1, descending=True, stable=True)  # [B, S]
    chosen = groups.sources.gather(1, by_score[:, :r])  # class-free indices, [B, r]
    target = groups.destinations.gather(1, destination.gather(1, by_score[:, :r]))
    keep = torch.ones(batch, rows.shape[1], dtype=torch.long, device=metric.device)
    keep.scatter_(1, chosen, 0)
    slot = _slots(keep, by_score, groups, config, by_index=fixed_first or config.unordered_sources == "index")  # [B, P]
    return _assemble(every, keep, slot, chosen, target, cls_position, config)


def _slots(keep: Tensor, by_score: Tensor, groups: Groups, config: ReductionConfig, *, by_index: bool) -> Tensor:
    """Output position of every kept class-free token, class token not counted: [B, P]."""
    if config.ordered:
        return keep.cumsum(1) - 1
    kept = keep.gather(1, groups.sources)  # [B, S]
    left = keep.shape[1] - groups.destinations.shape[1]
    removed = left - kept.sum(1, keepdim=True)
    if by_index:
        place = kept.cumsum(1) - 1
    else:
        ranks = torch.arange(left, device=keep.device).expand_as(by_score) - removed
        place = torch.empty_like(by_score).scatter_(1, by_score, ranks)
    last = torch.arange(groups.destinations.shape[1], device=keep.device) + left - removed
    slot = torch.empty_like(keep).scatter_(1, groups.sources, place)
    return slot.scatter_(1, groups.destinations, last)


def _assemble(
    rows: Tensor,
    keep: Tensor,
    slot: Tensor,
    chosen: Tensor,
    target: Tensor,
    cls_position: int | Tensor | None,
    config: ReductionConfig,
) -> Matching:
    """Put the class token between the patches and flatten all indices over the batch."""
    batch, patches = keep.shape
    r = chosen.shape[1]
    has_cls = cls_position is not None
    length = patches + has_cls
    length_out = length - r
    moved: int | Tensor = 0
    if cls_position is not None:
        moved = _moved(cls_position, keep, length, r, config)
        slot = slot + (slot >= (moved if isinstance(moved, int) else moved[:, None])).long()
    survivors = torch.empty(batch, length_out + 1, dtype=torch.long, device=keep.device)  # one more row for the removed
    survivors.scatter_(1, torch.where(keep.bool(), slot, length_out), rows)
    if isinstance(moved, Tensor) and cls_position is not None:
        own = cls_position[:, None] if isinstance(cls_position, Tensor) else torch.full_like(moved[:, None], cls_position)
        survivors.scatter_(1, moved[:, None], own)
    elif cls_position is not None:
        survivors[:, moved] = cls_position
    offset = torch.arange(batch, device=keep.device)[:, None]
    return Matching(
        survivors=(survivors[:, :length_out] + offset * length).flatten(),
        merged=(rows.gather(1, chosen) + offset * length).flatten(),
        targets=(rows.gather(1, target) + offset * length).flatten(),
        slots=(slot.gather(1, target) + offset * length_out).flatten(),
        length_out=length_out,
        cls_position=moved,
    )


def _moved(cls_position: int | Tensor, keep: Tensor, length: int, r: int, config: ReductionConfig) -> int | Tensor:
    """The class token's new place: proportional to the old one, or right after the survivors that were left of it."""
    if config.cls_position == "exact_rank" or isinstance(cls_position, Tensor):
        index = torch.arange(keep.shape[1], device=keep.device)[None]
        position = cls_position[:, None] if isinstance(cls_position, Tensor) else cls_position
        return (keep * (index < position)).sum(1)
    return moved_cls_position(cls_position, length, r, ordered=config.ordered)
