"""Tables that change one decision of the method. The unchanged method comes from stored runs, the rest from `ablate`."""

from __future__ import annotations

from rmeeto_bench.published import PaperRow
from rmeeto_bench.report.paper.item import Needs, Ours, PaperItem, nothing
from rmeeto_bench.report.paper.matching import accuracy_and_flops, our_model
from rmeeto_bench.report.paper.read_ablations import VARIANTS, Ablated
from rmeeto_bench.report.paper.sources import STAND_IN, Sources

PAIR = "vim_tiny (r = 5), vim_small (r = 11)"
BOTH = "public baselines of Vim; re-trained for 3 epochs with each setting"
FREE = "public baselines of Vim"
TRIO = "vim_tiny, vim_small, vim_base"


def _ours(row: PaperRow, ablated: Ablated, *, comparable: bool) -> Ours | None:
    stand_in = "" if comparable else f"stand-in {ablated.model} for {row.model}; "
    match = f"{stand_in}ablate on {ablated.data}"
    if row.metric == "top1_pm":
        return None if ablated.spread is None else Ours(ablated.spread, f"{match}; deviation over seeds", comparable=comparable)
    return Ours(ablated.top1.value, match, ablated.top1.low, ablated.top1.high, comparable=comparable)


def ablation(row: PaperRow, sources: Sources) -> Ours | None:
    """From a stored run where the row is of the method itself, else from `ablate` on the same model, or on the bundled one."""
    found = accuracy_and_flops(row, sources)
    known = VARIANTS.get((row.setting_name, row.setting_value, row.method))
    if found is not None or known is None or row.regime != "training-free" or row.metric not in ("top1", "top1_pm"):
        return found
    model = our_model(row)
    for candidate in (model, STAND_IN):
        for ablated in sources.ablated:
            if (ablated.model, str(ablated.r)) == (candidate, row.r) and (ablated.study, ablated.label) == known:
                return _ours(row, ablated, comparable=candidate == model)
    return None


def _ablation(name: str, title: str, models: str, checkpoints: str, changed: str) -> PaperItem:
    absent = (
        f"rows of the method itself need valid runs at these r, training-free ones with {changed} `ablate` and --ablations; "
        "for re-trained ones train with that setting (`retrain --reduce`) and --trainings"
    )
    return PaperItem(name, title, Needs(models, checkpoints=checkpoints), ablation, absent)


def _shuffle_rows() -> tuple[PaperRow, ...]:
    """The rows of Table 5a; the reference data has no values of it."""
    return tuple(
        PaperRow("5a", model, "merging", regime, "", r, "shuffle_ratio", "", "top1", float("nan"), "%", "value unknown")
        for model, r in (("Vim-Ti", "5"), ("Vim-S", "11"))
        for regime in ("training-free", "re-trained 3ep")
    )


ITEMS = (
    _ablation("4", "Tokens in order against kept sources first", f"deit_*, {TRIO}", BOTH, "order given up"),
    PaperItem(
        "5a",
        "Shuffling a share of the tokens before each merge",
        Needs(PAIR, checkpoints=BOTH),
        nothing,
        "the published values are not in the reference data, and stored runs record no shuffling",
        _shuffle_rows(),
    ),
    PaperItem(
        "5b",
        "Shuffling with pruning and with merging",
        Needs("vim_small (r = 11)", checkpoints=BOTH),
        ablation,
        "training-free rows need `ablate shuffle` and --ablations; for re-trained ones `retrain --reduce` and --trainings",
    ),
    _ablation("6", "Feature that similarity is computed on", PAIR, BOTH, "another feature"),
    _ablation("7", "Distance between tokens", PAIR, BOTH, "another distance"),
    _ablation("15", "Merging with the k-th closest token", PAIR, BOTH, "another k"),
    _ablation("16", "Blocks between two merges", PAIR, BOTH, "another interval"),
    _ablation("17", "How a group of tokens is folded", PAIR, BOTH, "another fold"),
    _ablation("20", "How tokens are split into sources and destinations", PAIR, BOTH, "another split"),
    _ablation("22", "Sources drawn at random", TRIO, FREE, "random sources"),
    _ablation("23", "Destinations drawn at random", TRIO, FREE, "random destinations"),
)
