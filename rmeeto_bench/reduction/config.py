"""How tokens are reduced: one frozen configuration, and the presets by name. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.distances import DISTANCES
from rmeeto_bench.validate import at_least, one_of


@dataclass(frozen=True)
class Pruning:
    """When a rival method prunes, and how much.

    Defaults are Vim-Ti's (from ToP-ViM's log names and FLOPs): 197, 157, 125 tokens. Vim-S: start 5, gap 5, before 20.
    """

    start: int = 10  # first layer after which patches are dropped, counted from 1
    gap: int = 10  # layers between two prunings
    keep: float = 0.8  # share of the patches that each pruning keeps
    before: int | None = None  # no pruning at this layer or later; None: up to the last layer

    def __post_init__(self) -> None:
        if self.start < 1 or self.gap < 1:
            raise UsageError(f"start and gap count layers from 1, not {self.start} and {self.gap}")
        if not 0 < self.keep <= 1:
            raise UsageError(f"keep is a share of the patches, above 0 and up to 1, not {self.keep:g}")

    def blocks(self, depth: int) -> tuple[int, ...]:
        """0-based blocks after which patches are dropped; never the last, after which nothing would be saved."""
        end = depth if self.before is None else min(depth, self.before)
        return tuple(layer - 1 for layer in range(self.start, end, self.gap))

    def kept(self, patches: int) -> int:
        """How many of `patches` patches are kept."""
        return math.ceil(round(self.keep * patches, 9))

    def after(self, patches: int) -> int:
        """Patch tokens that go on, a fused one included."""
        return self.kept(patches)

    def token_counts(self, *, depth: int, initial_tokens: int) -> tuple[int, ...]:
        """Tokens entering each block's mixer, class token included."""
        blocks, patches, counts = self.blocks(depth), initial_tokens - 1, []
        for block in range(depth):
            counts.append(patches + 1)
            if block in blocks:
                patches = self.after(patches)
        return tuple(counts)


CHOICES: dict[str, tuple[str, ...]] = {
    "placement": ("even", "odd"),
    "metric": ("X", "B", "C", "delta", "Q", "K", "V"),
    "metric_flip": ("tokens", "features"),
    "mode": ("sum", "mean", "amax", "amin"),
    "unordered_sources": ("index", "score"),
    "cls_position": ("proportional", "exact_rank"),
    "score_dtype": ("float32", "input"),
}
ABLATIONS: dict[str, tuple[str, ...]] = {
    "grouping": ("odd_even", "front_behind", "random"),
    "sources": ("closest", "random"),
    "destinations": ("closest", "random"),
}


SSM_METRICS, ATTENTION_METRICS = ("B", "C", "delta"), ("Q", "K", "V")


def _one_of(owner: object, choices: dict[str, tuple[str, ...]]) -> None:
    for name, allowed in choices.items():
        one_of(name, getattr(owner, name), allowed)


@dataclass(frozen=True)
class Ablation:
    """Decisions of the method replaced by chance or by another rule, to see what each is worth. The default is the method.

    Each forward starts its draws from the seed, so equal seeds give equal results. `torch.manual_seed(seed)` before
    upstream's forward makes upstream's shuffle draw the same.
    """

    shuffle: float = 0.0  # share of the patches that change places before each merge, the same for a whole batch (Table 5)
    grouping: str = "odd_even"  # or front_behind: first half sources, second half destinations; or random halves (Table 20)
    sources: str = "closest"  # which r sources merge: the closest, or r at random (random-r, Table 22)
    destinations: str = "closest"  # into which destination: the closest, or one at random (random pair, Table 23)
    seed: int = 0  # of all draws

    def __post_init__(self) -> None:
        _one_of(self, ABLATIONS)
        if not 0 <= self.shuffle <= 1:
            raise UsageError(f"shuffle is the share of patches that change places, from 0 to 1, not {self.shuffle:g}")

    @property
    def stochastic(self) -> bool:
        """Whether the seed matters."""
        return self.shuffle > 0 or "random" in (self.grouping, self.sources, self.destinations)


@dataclass(frozen=True)
class VitOptions:
    """What only a ViT has."""

    proportional_attention: bool = True  # add log(size) to the attention logits (ToMe)
    protect_class: bool = True  # the class token never merges
    inflection: float = 0.0  # ToMe's linear schedule of r over the blocks: 0 is a constant r, 1 goes from 0 to 2 r
    per_block: tuple[int, ...] = ()  # r of each block instead of a schedule; blocks beyond it merge nothing

    def __post_init__(self) -> None:
        if not -1 <= self.inflection <= 1:
            raise UsageError(f"inflection lies from -1 to 1, not {self.inflection:g}")
        if any(r < 0 for r in self.per_block):
            raise UsageError(f"per_block holds tokens to remove, 0 or more, not {self.per_block}")


@dataclass(frozen=True)
class ReductionConfig:
    """Token merging (or pruning) as in the paper, section 3; the defaults are the paper's."""

    r: int = 0  # tokens each merge removes, at most half of the patches
    placement: str = "even"  # blocks that merge: even ones (2, 4, ...) or odd ones (1, 3, ...)
    interval: int = 2  # distance between merging blocks
    metric: str = "X"  # similarity is computed on the previous mixer's output X, its B, C or delta; in a ViT on X, Q, K or V
    metric_flip: str = "tokens"  # pairs B, C, delta of both directions by token; upstream pairs them by `features`
    distance: str = "cosine"  # a name in DISTANCES, applied to rows of unit length
    choose_k: int = 1  # merge into the k-th closest destination, at most as many as there are
    mode: str = "sum"  # how a group is folded; `sum` is the size-weighted mean
    ordered: bool = True  # keep the original order; otherwise kept sources come first, by `unordered_sources`
    unordered_sources: str = "index"  # order of kept sources when not ordered: by index, or by score as upstream
    prune: bool = False  # drop the chosen tokens instead of merging them
    cls_position: str = "proportional"  # the class token's place: proportional as upstream, or its exact_rank among survivors
    final_tokens: int | None = None  # the last merge aims at this many tokens (upstream's `compare` rule); None: off
    score_dtype: str = "float32"  # of similarities; `input` uses the input's dtype, as upstream does under autocast
    first_token_as_cls: bool = False  # upstream's visualisation path: token 0 is protected and read; for parity only
    ablation: Ablation = field(default_factory=Ablation)  # decisions replaced by chance or by another rule
    vit: VitOptions = field(default_factory=VitOptions)  # what only a ViT has

    def __post_init__(self) -> None:
        _one_of(self, {**CHOICES, "distance": tuple(DISTANCES)})
        at_least(0, {"r": self.r})
        at_least(1, {"interval": self.interval, "choose_k": self.choose_k})
        if self.final_tokens is not None and self.final_tokens < 2:
            raise UsageError(f"final_tokens must leave a patch and the class token, not {self.final_tokens}")
        if self.cls_position == "exact_rank" and not self.ordered:
            raise UsageError("cls_position exact_rank needs ordered merging: without order there is no rank")
        if self.cls_position == "exact_rank" and self.ablation.shuffle:
            raise UsageError("shuffling needs one class position for all images; use cls_position proportional")


def paper(r: int, **changes: Any) -> ReductionConfig:
    """The method as the paper describes it; reproduces its Table 10."""
    return ReductionConfig(r=r, **changes)


def upstream_exact(r: int, **changes: Any) -> ReductionConfig:
    """What the released code does with its released defaults: the last merge aims at 76 tokens whatever r is, kept
    sources stay in score order when unordered, and the backward B, C, delta are flipped along their features."""
    exact = {"final_tokens": 76, "unordered_sources": "score", "metric_flip": "features"}
    return ReductionConfig(r=r, **{**exact, **changes})


def tome(r: int, **changes: Any) -> ReductionConfig:
    """ToMe on a ViT (Bolya et al., ICLR 2023): attention keys, kept sources before destinations."""
    return ReductionConfig(r=r, **{"metric": "K", "ordered": False, **changes})


PRESETS = {"paper": paper, "upstream_exact": upstream_exact, "tome": tome}
