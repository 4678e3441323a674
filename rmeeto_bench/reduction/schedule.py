"""r, reduction ratio and tokens per block: the arithmetic of the paper's Table 10. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import ReductionConfig

# Paper Table 10: nominal ratio -> r, for 197 tokens and 24 blocks merging in the even ones.
PAPER_RATIOS: dict[float, int] = {0.0: 0, 0.14: 5, 0.28: 10, 0.31: 11, 0.36: 13, 0.42: 15, 0.54: 20}
VIDEO_RS = tuple(range(0, 89, 8))  # paper Table 14: 8 frames, 1,569 tokens; 88 is the video models' default


def effective_r(tokens: int, r: int, *, protected: int = 1) -> int:
    """Tokens one merge really removes: at most half of the unprotected ones, never negative."""
    return max(0, min(r, (tokens - protected) // 2))


def merging_blocks(depth: int, placement: str, interval: int) -> tuple[int, ...]:
    """0-based blocks that merge at their start. Block 0 never does: there is no mixer output to compare yet."""
    shift = 1 if placement == "odd" else 0
    return tuple(i for i in range(1, depth) if (i + shift) % interval == 0)


def merges(config: ReductionConfig, *, depth: int = 24, initial_tokens: int = 197) -> dict[int, int]:
    """Merging block -> tokens it really removes, in order, zero where the clamp or the final-tokens rule leaves none."""
    tokens, removed = initial_tokens, {}
    for block in merging_blocks(depth, config.placement, config.interval):
        r = config.r
        if config.final_tokens is not None and depth - block <= config.interval:
            r = tokens - config.final_tokens
        removed[block] = effective_r(tokens, r)
        tokens -= removed[block]
    return removed


def token_counts(config: ReductionConfig, *, depth: int = 24, initial_tokens: int = 197) -> tuple[int, ...]:
    """Tokens entering each block's mixer, class token included."""
    removed = merges(config, depth=depth, initial_tokens=initial_tokens)
    counts, tokens = [], initial_tokens
    for block in range(depth):
        tokens -= removed.get(block, 0)
        counts.append(tokens)
    return tuple(counts)


def r_per_block(config: ReductionConfig, depth: int) -> tuple[int, ...]:
    """Nominal r of every block: constant, ToMe's linear schedule around the same mean, or as listed."""
    vit = config.vit
    if vit.per_block:
        return (*vit.per_block[:depth], *(0,) * (depth - len(vit.per_block)))
    first = int(config.r * (1 - vit.inflection))
    step = (2 * config.r - 2 * first) / max(1, depth - 1)
    return tuple(int(first + step * block) for block in range(depth))


def vit_schedule(config: ReductionConfig, *, depth: int, initial_tokens: int) -> tuple[int, ...]:
    """Tokens entering every block, then those leaving the last one: depth + 1 numbers."""
    counts = [initial_tokens]
    for r in r_per_block(config, depth):
        counts.append(counts[-1] - effective_r(counts[-1], r, protected=1 if config.vit.protect_class else 0))
    return tuple(counts)


def reduction_ratio(counts: Sequence[int], initial_tokens: int) -> float:
    """1 - mean tokens per block / initial tokens (paper Table 10)."""
    return 1 - sum(counts) / (len(counts) * initial_tokens)


def moved_cls_position(position: int, tokens: int, r: int, *, ordered: bool) -> int:
    """Upstream's proportional guess of the class token's place after a merge that removes r of `tokens` tokens.

    Ordered: its share of the whole sequence. Unordered: its share of the sources, which come first; a class token from
    further back goes right after them (upstream puts it there too, but names a row behind it).
    """
    if r <= 0:
        return position
    if ordered:
        return position * (tokens - r) // tokens
    sources = tokens // 2  # = ceil((tokens - 1) / 2)
    return min(position * (sources - r) // sources, sources - r)


def r_for_ratio(
    ratio: float, *, depth: int = 24, initial_tokens: int = 197, config: ReductionConfig | None = None
) -> tuple[int, float]:
    """The r of a Mamba model whose realised ratio is nearest (the smaller on a tie), and that realised ratio.

    Raises `UsageError` for a ratio outside [0, 1).
    """

    def counts(reduction: ReductionConfig) -> Sequence[int]:
        return token_counts(reduction, depth=depth, initial_tokens=initial_tokens)

    return nearest_r(ratio, counts, initial_tokens, config)


def nearest_r(
    ratio: float,
    counts: Callable[[ReductionConfig], Sequence[int]],
    initial_tokens: int,
    config: ReductionConfig | None = None,
) -> tuple[int, float]:
    """`r_for_ratio` for any model: `counts` gives its tokens per block at a reduction."""
    if not 0 <= ratio < 1:
        raise UsageError(f"a reduction ratio lies in [0, 1), {ratio:g} does not")
    base = config or ReductionConfig()
    realised = [(r, reduction_ratio(counts(replace(base, r=r)), initial_tokens)) for r in range(initial_tokens // 2 + 1)]
    return min(realised, key=lambda pair: abs(pair[1] - ratio))
