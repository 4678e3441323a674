"""Tables that change one decision of the method. Rows of the method as it is can have ours beside them; for the others
a stored run does not say which decision was changed, so they stay empty until it does."""

from __future__ import annotations

from rmeeto_bench.reference import PaperRow
from rmeeto_bench.report.paper.item import Item, Needs, nothing
from rmeeto_bench.report.paper.matching import accuracy_and_flops

PAIR = "vim_tiny (r = 5), vim_small (r = 11)"
BOTH = "public baselines of Vim; re-trained for 3 epochs with each setting"
FREE = "public baselines of Vim"
TRIO = "vim_tiny, vim_small, vim_base"


def _ablation(name: str, title: str, models: str, checkpoints: str, changed: str) -> Item:
    lacks = f"rows of the method itself need valid runs at these r; the others runs with {changed}"
    return Item(name, title, Needs(models, checkpoints=checkpoints), accuracy_and_flops, lacks)


def _shuffle_rows() -> tuple[PaperRow, ...]:
    """Table 5a as it is laid out; its values are not among the reference data."""
    return tuple(
        PaperRow("5a", model, "merging", regime, "", r, "shuffle_ratio", "", "top1", float("nan"), "%", "value unknown")
        for model, r in (("Vim-Ti", "5"), ("Vim-S", "11"))
        for regime in ("training-free", "re-trained 3ep")
    )


ITEMS = (
    _ablation("4", "Tokens in order against kept sources first", f"deit_*, {TRIO}", BOTH, "order given up"),
    Item(
        "5a",
        "Shuffling a share of the tokens before each merge",
        Needs(PAIR, checkpoints=BOTH),
        nothing,
        "the published values are not in the reference data, and stored runs record no shuffling",
        _shuffle_rows(),
    ),
    Item(
        "5b",
        "Shuffling with pruning and with merging",
        Needs("vim_small (r = 11)", checkpoints=BOTH),
        nothing,
        "needs runs with shuffled tokens, which stored runs do not record",
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
