"""How tokens are reduced: one frozen configuration, and the two presets by name. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmeeto_bench.errors import UsageError

CHOICES: dict[str, tuple[str, ...]] = {
    "placement": ("even", "odd"),
    "metric": ("X", "B", "C", "delta"),
    "metric_flip": ("tokens", "features"),
    "distance": ("cosine", "l1", "l2"),
    "mode": ("sum", "mean", "amax", "amin"),
    "unordered_sources": ("index", "score"),
    "cls_position": ("proportional", "exact_rank"),
    "score_dtype": ("float32", "input"),
}


@dataclass(frozen=True)
class ReductionConfig:
    """Token merging (or pruning) as in the paper, section 3; the defaults are the paper's.

    r: nominal tokens removed per merge, clamped to half of the patches · placement: merge in `even` blocks 2, 4, ...
    or `odd` ones 1, 3, ... · interval: distance between merging blocks · metric: what similarity is computed on, X (the
    previous mixer's output), or that block's B, C or delta · metric_flip: how B, C and delta of both directions are
    paired, by `tokens`, or as upstream does by `features` · distance: on unit-length rows · choose_k: take the k-th
    closest destination (clamped to the destinations there are) · mode: how a group is folded; `sum` is the
    size-weighted mean · ordered: keep the original order, else kept sources first, by `unordered_sources` · prune: drop
    the chosen tokens instead of merging them · cls_position: where the class token goes, `proportional` as upstream or
    at its `exact_rank` among the survivors · final_tokens: make the last merge aim at this many tokens (upstream's
    `compare` rule), None for off · score_dtype: similarities in fp32, or in the `input`'s dtype as upstream under
    autocast · first_token_as_cls: upstream's visualisation path as it is, where token 0 is protected, the real class
    token merges like a patch and the logits are read from row 0; for parity only.
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

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name, least in (("r", 0), ("interval", 1), ("choose_k", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.final_tokens is not None and self.final_tokens < 2:
            raise UsageError(f"final_tokens must leave a patch and the class token, not {self.final_tokens}")
        if self.cls_position == "exact_rank" and not self.ordered:
            raise UsageError("cls_position exact_rank needs ordered merging: without order there is no rank")


def paper(r: int, **changes: Any) -> ReductionConfig:
    """The method as the paper describes it; reproduces its Table 10."""
    return ReductionConfig(r=r, **changes)


def upstream_exact(r: int, **changes: Any) -> ReductionConfig:
    """What the released code does with its released defaults: the last merge aims at 76 tokens whatever r is, kept
    sources stay in score order when unordered, and the backward B, C, delta are flipped along their features."""
    exact = {"final_tokens": 76, "unordered_sources": "score", "metric_flip": "features"}
    return ReductionConfig(r=r, **{**exact, **changes})


PRESETS = {"paper": paper, "upstream_exact": upstream_exact}
