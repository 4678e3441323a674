"""The variant for ViTs (DeiT): merging between attention and MLP, the class token first and counted as a source."""

from __future__ import annotations

from torch import Tensor

from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.matching import match
from rmeeto_bench.reduction.merging import drop, fold, merge_matched
from rmeeto_bench.reduction.schedule import effective_r


def merge_vit(
    x: Tensor,
    size: Tensor | None,
    config: ReductionConfig,
    *,
    metric: Tensor | None = None,
    class_token: bool = True,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Merge (or prune) x [B, L, C] with sizes [B, L, 1] and source [B, L, L_0]; returns all at length L - r.

    Even rows are sources, odd rows destinations, the class token at row 0 included: as a source that is never chosen.
    Unordered, kept sources come first, in index order if there is a class token, else by score.
    """
    r = effective_r(x.shape[1], config.r, protected=1 if class_token else 0)
    if r == 0:
        return x, size, source
    matching = match(x if metric is None else metric, None, r, config, fixed_first=class_token)
    if config.prune:
        kept = (None if t is None else drop(t, matching) for t in (size, source))
        return drop(x, matching), *kept  # type: ignore[return-value]
    (merged,), new_size = merge_matched((x,), size, matching, config.mode)
    assert merged is not None
    return merged, new_size, None if source is None else fold(source, matching, "amax")


def r_per_block(config: ReductionConfig, depth: int) -> tuple[int, ...]:
    """Nominal r of every block: constant, ToMe's linear schedule around the same mean, or as listed."""
    vit = config.vit
    if vit.per_block:
        return (*vit.per_block[:depth], *(0,) * (depth - len(vit.per_block)))
    first = int(config.r * (1 - vit.inflection))
    step = (2 * config.r - 2 * first) / max(1, depth - 1)
    return tuple(int(first + step * block) for block in range(depth))


def vit_schedule(config: ReductionConfig, *, depth: int, initial_tokens: int) -> tuple[int, ...]:
    """Tokens entering every block, and those that leave the last: depth + 1 numbers."""
    counts = [initial_tokens]
    for r in r_per_block(config, depth):
        counts.append(counts[-1] - effective_r(counts[-1], r, protected=1 if config.vit.protect_class else 0))
    return tuple(counts)
