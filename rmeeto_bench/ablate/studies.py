"""The paper's ablations as data: the variants of each study, and what the paper found.

The first variant of a study is the paper's own choice; the others are judged against it. `finding` is the paper's for
that variant: `worse`, `same` (within half a point) or `not better` (Table 6 prints its rows without names).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.config import Ablation, Pruning, ReductionConfig
from rmeeto_bench.reduction.pruning import HiddenStateAlignment, TokenRecognition
from rmeeto_bench.reduction.schedule import token_counts


@dataclass(frozen=True)
class Variant:
    """One row of a study: a reduction or a pruning baseline, and what the paper found."""

    label: str  # name of the variant
    reduction: ReductionConfig  # how tokens are merged; not used if `pruning` is given
    finding: str = ""  # worse, same or not better; empty where the paper has none
    pruning: Pruning | None = None  # a rival method instead of merging
    versus: str = ""  # the label it is judged against, if not the study's first

    @property
    def stochastic(self) -> bool:
        """Whether it is run with several seeds."""
        return self.reduction.ablation.stochastic


@dataclass(frozen=True)
class Study:
    """One ablation."""

    name: str  # as given on the command line
    question: str  # what is compared
    source: str  # the paper's table, and the regime in which its finding was made
    variants: tuple[Variant, ...]  # the paper's own choice first


def _matching(base: ReductionConfig) -> list[Study]:
    """Studies of the matching: feature, distance, choice of the destination, and how a group is folded."""
    ours = Variant("X", base)
    features = [
        Variant(f"{metric}{note}", replace(base, metric=metric, metric_flip=flip), finding)
        for flip, note, finding in (("tokens", "", "not better"), ("features", " (upstream's flip)", ""))
        for metric in ("B", "C", "delta")
    ]
    attention = [Variant(metric, replace(base, metric=metric)) for metric in ("Q", "K", "V")]
    distances = [Variant(d, replace(base, distance=d), "same") for d in ("l1", "l2")]
    farther = [Variant(f"k = {k}", replace(base, choose_k=k), "worse" if k == 14 else "same") for k in (3, 5, 7, 14)]
    modes = [("mean", "same"), ("amax", "worse"), ("amin", "worse")]
    return [
        Study("metric", "which feature is compared", "Table 6, training-free", (ours, *features, *attention)),
        Study("distance", "by which distance", "Table 7, training-free", (replace(ours, label="cosine"), *distances)),
        Study("choose-k", "the k-th closest destination", "Table 15, re-trained", (replace(ours, label="closest"), *farther)),
        Study(
            "mode",
            "how a group is folded",
            "Table 17, training-free",
            (replace(ours, label="sum"), *(Variant(mode, replace(base, mode=mode), found) for mode, found in modes)),
        ),
    ]


def _places(base: ReductionConfig) -> list[Study]:
    """Where merges happen, and where the class token goes."""
    ours, final = Variant("every 2nd", base), token_counts(base)[-1]
    intervals = [
        Variant(f"every {n}th, {final} left", replace(base, interval=n, final_tokens=final), "same") for n in (4, 6, 8)
    ]
    low = replace(base, r=min(5, base.r))
    return [
        Study("interval", "blocks between merges, same tokens at the end", "Table 16, re-trained", (ours, *intervals)),
        Study(
            "placement",
            "even or odd blocks (odd ones merge 12 times, not 11)",
            "Tables 1 and 18, training-free",
            (replace(ours, label="even"), Variant("odd", replace(base, placement="odd"), "worse" if base.r >= 15 else "same")),
        ),
        Study(
            "final-tokens",
            f"the released code's last merge, which aims at 76 tokens whatever r is, at r = {low.r}",
            "released code",
            (Variant("off", low), Variant("76 left", replace(low, final_tokens=76))),
        ),
        Study(
            "cls-position",
            "the class token's place after a merge",
            "released code",
            (replace(ours, label="proportional"), Variant("exact rank", replace(base, cls_position="exact_rank"))),
        ),
    ]


def _chance(base: ReductionConfig) -> list[Study]:
    """Studies of the order of tokens, and of random choices."""

    def drawn(label: str, finding: str = "worse", **ablation: float | str) -> Variant:
        return Variant(label, replace(base, ablation=Ablation(**ablation)), finding)  # type: ignore[arg-type]

    ours, pruned = Variant("ordered", base), replace(base, prune=True)
    unordered = replace(base, ordered=False)
    ratios = (0.1, 0.3, 0.5, 0.7)
    shuffled = [drawn(f"merge, {ratio:g} shuffled", shuffle=ratio) for ratio in ratios]
    shuffled += [
        Variant(f"prune, {ratio:g} shuffled", replace(pruned, ablation=Ablation(shuffle=ratio)), "worse", versus="prune")
        for ratio in ratios
    ]
    groups = (drawn("front-behind", grouping="front_behind"), drawn("random halves", grouping="random"))
    return [
        Study(
            "order",
            "kept order or sources first (odd-even shuffle)",
            "Table 4, re-trained",
            (
                ours,
                Variant("unordered", unordered, "worse"),
                Variant("unordered, by score (upstream)", replace(unordered, unordered_sources="score"), "worse"),
            ),
        ),
        Study(
            "shuffle",
            "a share of the tokens shuffled before each merge",
            "Table 5, training-free",
            (replace(ours, label="merge"), Variant("prune", pruned), *shuffled),
        ),
        Study("grouping", "who may merge into whom", "Table 20, training-free", (replace(ours, label="odd-even"), *groups)),
        Study(
            "random-r",
            "random sources instead of the closest",
            "Table 22, training-free",
            (replace(ours, label="closest"), drawn("random r", sources="random")),
        ),
        Study(
            "random-pair",
            "random destinations instead of the closest",
            "Table 23, training-free",
            (
                replace(ours, label="closest"),
                drawn("random pair", destinations="random"),
                drawn("random pair and r", finding="", destinations="random", sources="random"),
            ),
        ),
    ]


def _rivals(base: ReductionConfig) -> list[Study]:
    """Merging against dropping tokens."""
    against = [
        variant
        for r, found in ((5, "same"), (10, "same"), (15, "worse"), (20, "worse"))
        for variant in (
            Variant(f"merge, r = {r}", replace(base, r=r)),
            Variant(f"prune, r = {r}", replace(base, r=r, prune=True), found, versus=f"merge, r = {r}"),
        )
    ]
    recognition = TokenRecognition(start=5, gap=5, before=20)  # Vim-S's schedule: about the reduction of r = 11
    aligned = HiddenStateAlignment(start=5, gap=5, before=20)
    plain = ReductionConfig()
    return [
        Study("prune", "dropping the matched tokens instead of merging them", "Table 1, training-free", tuple(against)),
        Study(
            "baselines",
            "the paper's rivals (reconstructions) at Vim-S's schedule",
            "Table 2, re-trained",
            (
                Variant("merge", base),
                Variant("Token Recognition", plain, "worse", recognition),
                Variant("Token Recognition, order kept", plain, "", replace(recognition, resort=True)),
                Variant("Hidden State Alignment", plain, "worse", aligned),
            ),
        ),
    ]


def studies(r: int) -> dict[str, Study]:
    """All ablations at r tokens per merge, by name."""
    base = ReductionConfig(r=r)
    return {study.name: study for part in (_matching, _places, _chance, _rivals) for study in part(base)}


def choose_studies(names: tuple[str, ...], r: int) -> tuple[Study, ...]:
    """The studies by name; all of them for none. Raises `UsageError` for an unknown name."""
    known = studies(r)
    for name in names:
        if name not in known:
            raise UsageError(f"unknown ablation {name!r}; choose {', '.join(known)}, or --all")
    return tuple(known[name] for name in names or known)
