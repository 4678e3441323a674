"""How tokens are reduced: one frozen configuration, and the two presets by name. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rmeeto_bench.errors import UsageError


@dataclass(frozen=True)
class Pruning:
    """When and how much: after layers (from 1) start, start + gap, ... below `before`, keep this share of the patches.

    Defaults are Vim-Ti's (from ToP-ViM's log names and FLOPs): 197, 157, 125 tokens. Vim-S: start 5, gap 5, before 20.
    """

    start: int = 10
    gap: int = 10
    keep: float = 0.8
    before: int | None = None

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
        """Patches that stay out of so many."""
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
    "distance": ("cosine", "l1", "l2"),
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
        if getattr(owner, name) not in allowed:
            raise UsageError(f"{name} is one of {', '.join(allowed)}, not {getattr(owner, name)!r}")


@dataclass(frozen=True)
class Ablation:
    """What the paper replaces by chance, or by another rule, to see what a decision is worth; the default is the method.

    shuffle: before each merge this share of the patches changes places at random, alike for all images of a batch
    (Table 5) · grouping: `odd_even`, first half sources and second half destinations (`front_behind`), or halves drawn
    at `random` for each image (Table 20) · sources: the r `closest` merge, or r drawn at `random` (random-r, Table 22) ·
    destinations: the `closest`, or one drawn at `random` (random pair, Table 23; the paper does not say whether its
    sources stay the closest: combine with `sources`) · seed: of all draws. A forward starts its draws anew, so equal
    seeds give equal results; `torch.manual_seed(seed)` before upstream's forward makes upstream's shuffle draw the same.
    """

    shuffle: float = 0.0
    grouping: str = "odd_even"
    sources: str = "closest"
    destinations: str = "closest"
    seed: int = 0

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
    """What only a ViT has. proportional_attention: add log(size) to the attention logits (ToMe) · protect_class: the class
    token never merges · inflection: ToMe's linear schedule of r over the blocks, 0 for a constant r, 1 for 0 to 2 r ·
    per_block: r of each block instead, the rest 0."""

    proportional_attention: bool = True
    protect_class: bool = True
    inflection: float = 0.0
    per_block: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not -1 <= self.inflection <= 1:
            raise UsageError(f"inflection lies from -1 to 1, not {self.inflection:g}")
        if any(r < 0 for r in self.per_block):
            raise UsageError(f"per_block holds tokens to remove, 0 or more, not {self.per_block}")


@dataclass(frozen=True)
class ReductionConfig:
    """Token merging (or pruning) as in the paper, section 3; the defaults are the paper's.

    r: nominal tokens removed per merge, clamped to half of the patches · placement: merge in `even` blocks 2, 4, ... or
    `odd` ones 1, 3, ... · interval: distance between merging blocks · metric: what similarity is computed on, X (the
    previous mixer's output), or that block's B, C or delta; in a ViT X (after attention), Q, K or V · metric_flip: how B, C
    and delta of both directions are paired, by `tokens`, or as upstream does by `features` · distance: on unit-length rows
    · choose_k: take the k-th closest destination (clamped to the destinations there are) · mode: how a group is folded;
    `sum` is the size-weighted mean · ordered: keep the original order, else kept sources first, by `unordered_sources` ·
    prune: drop the chosen tokens instead of merging them · cls_position: where the class token goes, `proportional` as
    upstream or at its `exact_rank` among the survivors · final_tokens: make the last merge aim at this many tokens
    (upstream's `compare` rule), None for off · score_dtype: similarities in fp32, or in the `input`'s dtype as upstream
    under autocast · first_token_as_cls: upstream's visualisation path as it is, where token 0 is protected, the real class
    token merges like a patch and the logits are read from row 0; for parity only · ablation: decisions replaced by chance
    or another rule · vit: what only a ViT has.
    """

    r: int = 0
    placement: str = "even"
    interval: int = 2
    metric: str = "X"
    metric_flip: str = "tokens"
    distance: str = "cosine"
    choose_k: int = 1
    mode: str = "sum"
    ordered: bool = True
    unordered_sources: str = "index"
    prune: bool = False
    cls_position: str = "proportional"
    final_tokens: int | None = None
    score_dtype: str = "float32"
    first_token_as_cls: bool = False
    ablation: Ablation = field(default_factory=Ablation)
    vit: VitOptions = field(default_factory=VitOptions)

    def __post_init__(self) -> None:
        _one_of(self, CHOICES)
        for name, least in (("r", 0), ("interval", 1), ("choose_k", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
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
