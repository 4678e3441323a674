"""FLOPs per image or clip in every convention in use. A number means nothing without the name of its convention.

All of them count a multiply-add of a linear layer or convolution as one and the scan as 9 per (token, channel, state);
norms, activations and sorting are not counted. For Vim and VideoMamba:

- `hook`: what a forward hook sees: the tokens that are really there, but only one of the two scan directions (the
  in- and out-projections once). The paper's baseline rows are this without the matching, its merged rows with it.
- `analytic`: upstream's formula in the model: the same with one patch too many and r never clamped; VideoMamba's takes
  odd placement for even.
- `bidirectional`: `hook` with both directions counted.

Upstream's own hook misses VideoMamba's mixers, fails for the metrics B and C and counts delta's channels twice; here
each is counted as it is. For a DeiT `hook` is linear layers and the patch convolution only, as upstream's; the other two
also count both products of the attention, and the matching.

`operations` is not a convention. It counts the arithmetic that is done: two per multiply-add, both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import DeitConfig, VimConfig
from rmeeto_bench.reduction.config import Pruning, ReductionConfig
from rmeeto_bench.reduction.schedule import merges, merging_blocks, vit_schedule

CONVENTIONS = ("hook", "analytic", "bidirectional")


@dataclass(frozen=True)
class FlopCount:
    """The GFLOPs of one image or clip, part by part."""

    embedding: float  # GFLOPs of the patch embedding
    mixers: float  # GFLOPs of all mixers; in a DeiT of all blocks
    head: float  # GFLOPs of the classifier
    matching: float  # GFLOPs of all matchings and merges

    @property
    def layers(self) -> float:
        """All parts except the matching."""
        return self.embedding + self.mixers + self.head

    @property
    def total(self) -> float:
        """All parts, the matching included."""
        return self.layers + self.matching


def mixer_flops(tokens: int, config: VimConfig, *, directions: int) -> float:
    """One mixer on `tokens` tokens."""
    C, N, K, R = config.embed_dim, config.d_state, config.d_conv, config.dt_rank
    D = config.expand * C
    projections = 3 * tokens * C * D  # in_proj to 2 D, out_proj from D
    convolution = (tokens + K - 1) * D * K
    step_projections = tokens * D * (R + 2 * N) + tokens * R * D
    scan = 9 * tokens * D * N + 2 * tokens * D
    return projections + directions * (convolution + step_projections + scan)


def matching_flops(tokens: int, r: int, config: VimConfig, metric: str) -> float:
    """One matching and merge at `tokens` tokens before it; r is the nominal one, as upstream counts."""
    C = config.embed_dim
    widths = {"X": C, "B": config.d_state, "C": config.d_state, "delta": config.expand * C}
    if metric not in widths:
        raise UsageError(f"metric {metric} belongs to attention; a Mamba model has {', '.join(widths)}")
    width = widths[metric]
    return _matching(tokens, r, width, C)


def _matching(tokens: int, r: int, width: int, channels: int) -> float:
    return 6 * tokens * width + 2 * width * (tokens / 2) ** 2 + r * channels


def _tokens(config: VimConfig, reduction: ReductionConfig, convention: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens in each block's mixer, and (tokens before, nominal r) of each merge.

    The final-tokens rule replaces r in the last merge before any clamp, and upstream counts what it then finds there,
    a negative number too; the analytic formula knows neither the rule nor the clamp.
    """
    analytic = convention == "analytic"
    placement = "even" if analytic and config.cls_first else reduction.placement  # as VideoMamba's formula has it
    blocks = merging_blocks(config.depth, placement, reduction.interval)
    found = []
    if analytic:
        counts, tokens = [], config.num_tokens
        for block in range(config.depth):
            if block in blocks:
                found.append((tokens, reduction.r))
                tokens -= reduction.r
            counts.append(tokens)
        return counts, found
    counts = list(config.token_counts(reduction))
    for block in blocks:
        before = counts[block - 1]
        aim = reduction.final_tokens if config.depth - block <= reduction.interval else None
        found.append((before, reduction.r if aim is None else before - aim))
    return counts, found


def _deit_flops(config: DeitConfig, reduction: ReductionConfig, *, linear_only: bool) -> FlopCount:
    """A DeiT: attention at the tokens that enter a block, MLP at those the merge left."""
    C = config.embed_dim
    counts = vit_schedule(reduction, depth=config.depth, initial_tokens=config.num_tokens)
    blocks, matching = 0.0, 0.0
    width = C if reduction.metric == "X" else C // config.num_heads
    for before, after in pairwise(counts):
        blocks += 4 * before * C * C + 2 * config.mlp_ratio * after * C * C
        if not linear_only:
            blocks += 2 * before**2 * C
            matching += _matching(before, before - after, width, C) if before > after else 0.0
    embedding = config.num_patches * C * config.in_chans * config.patch_size**2
    return FlopCount(embedding / 1e9, blocks / 1e9, C * config.num_classes / 1e9, matching / 1e9)


def count_flops(config: VimConfig | DeitConfig, reduction: ReductionConfig | Pruning, convention: str = "hook") -> FlopCount:
    """Count one image or clip. A Mamba's matching is counted at r = 0 too, as upstream does: use `layers` for an unmerged
    model. Pruning's scores are not counted.

    Raises `UsageError` for an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise UsageError(f"FLOP conventions are {', '.join(CONVENTIONS)}, not {convention!r}")
    if isinstance(config, DeitConfig):
        if isinstance(reduction, Pruning):
            raise UsageError("the pruning baselines are for Mamba models; a DeiT merges or prunes by reduction")
        return _deit_flops(config, reduction, linear_only=convention == "hook")
    matching = 0.0
    if isinstance(reduction, Pruning):
        counts = list(reduction.token_counts(depth=config.depth, initial_tokens=config.num_tokens))
    else:
        counts, matched = _tokens(config, reduction, convention)
        matching = sum(matching_flops(tokens, r, config, reduction.metric) for tokens, r in matched)
    directions = 2 if convention == "bidirectional" else 1
    patches = config.num_tokens if convention == "analytic" else config.num_patches
    embedding = patches * config.embed_dim * config.in_chans * config.patch_size**2 * config.tubelet
    mixers = sum(mixer_flops(tokens, config, directions=directions) for tokens in counts)
    head = config.embed_dim * config.num_classes
    return FlopCount(embedding / 1e9, mixers / 1e9, head / 1e9, matching / 1e9)


def gflops_by_convention(config: VimConfig | DeitConfig, reduction: ReductionConfig) -> dict[str, float]:
    """GFLOPs of one image under every name: `paper`, each convention, and each `<convention>_without_matching`."""
    values = {"paper": published_gflops(config, reduction)}
    for convention in CONVENTIONS:
        count = count_flops(config, reduction, convention)
        values[convention], values[f"{convention}_without_matching"] = count.total, count.layers
    return values


def operations(config: VimConfig | DeitConfig, reduction: ReductionConfig) -> float:
    """10^9 arithmetic operations of one image: two per multiply-add, both directions, the scan as 9 per (token, channel,
    state) and direction, the matching where there is one. Vim-S at r = 0 does 10.76 where the paper prints 5.08."""
    count = count_flops(config, reduction, "bidirectional")
    if isinstance(config, DeitConfig):
        return 2 * count.layers + count.matching
    D, N = config.expand * config.embed_dim, config.d_state
    tokens = sum(config.token_counts(reduction))
    scans = 2 * tokens * D * (9 * N + 2) / 1e9  # counted in operations already, not in multiply-adds
    matching = count.matching if _merges_anything(config, reduction) else 0.0
    return 2 * (count.layers - scans) + scans + matching


def _merges_anything(config: VimConfig, reduction: ReductionConfig) -> bool:
    return any(merges(reduction, depth=config.depth, initial_tokens=config.num_tokens).values())


def published_gflops(config: VimConfig | DeitConfig, reduction: ReductionConfig) -> float:
    """The paper's own mixture: a merged model is counted with the matching, the unmerged one without it."""
    count = count_flops(config, reduction, "hook")
    return count.layers if reduction.r == 0 else count.total
