"""Tables of what re-training costs: 3 (minutes on 8 to 32 H100) and 9 (epochs, accuracy and minutes)."""

from __future__ import annotations

from rmeeto_bench.report.paper.item import Item, Needs, nothing

TRAIN = "ImageNet-1k training and validation sets"

ITEMS = (
    Item(
        "3",
        "Minutes of re-training for 3 epochs",
        Needs("vim_tiny, vim_small, vim_base", TRAIN, "public baselines of Vim", "8, 16 and 32 H100"),
        nothing,
        "needs the time of a re-training on 8 or more H100, which no stored run of this tool holds",
    ),
    Item(
        "9",
        "Accuracy and minutes by epochs of re-training",
        Needs("vim_small", TRAIN, "Vim-S re-trained at r = 11 for 1, 3, 5, 7 and 15 epochs", "4 A100 (not stated)"),
        nothing,
        "needs re-trainings of vim_small by epochs; a stored run says neither epochs nor minutes",
    ),
)
