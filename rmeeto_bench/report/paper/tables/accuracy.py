"""Tables of the method's accuracy: 1a, 1b, 11 and their odd-block twins 18, 19; re-training on less data, 8."""

from __future__ import annotations

from rmeeto_bench.report.paper.item import Needs, PaperItem
from rmeeto_bench.report.paper.matching import accuracy_and_flops

SMALL = "public baseline of Vim-S"
RETRAINED = "Vim-S re-trained for 3 epochs at each r"

ITEMS = (
    PaperItem(
        "1a",
        "Pruning against merging, without training",
        Needs("vim_small", checkpoints=SMALL),
        accuracy_and_flops,
        "merging rows need a valid run of vim_small with the baseline's weights, pruning rows a run with pruning",
    ),
    PaperItem(
        "1b",
        "Accuracy before and after re-training",
        Needs("vim_small", checkpoints=f"{SMALL}; {RETRAINED}"),
        accuracy_and_flops,
        "needs valid runs of vim_small with the baseline's and with re-trained weights at r = 5, 10, 15, 20",
    ),
    PaperItem(
        "8",
        "Re-training on a part of the training set",
        Needs("vim_small", "ImageNet-1k training and validation sets", "Vim-S re-trained on 100, 10, 5 and 1 % of the images"),
        accuracy_and_flops,
        "needs `retrain` of vim_small at r = 11 on these parts (--fraction), and --trainings; a stored run stands for all data",
    ),
    PaperItem(
        "11",
        "Accuracy without training at every r",
        Needs("vim_tiny, vim_small, vim_base", checkpoints="public baselines of Vim"),
        accuracy_and_flops,
        "needs valid runs of the three Vims with the baseline's weights at r = 0 ... 11",
    ),
    PaperItem(
        "18",
        "Pruning against merging in the odd blocks, without training",
        Needs("vim_small", checkpoints=SMALL),
        accuracy_and_flops,
        "needs a valid run of vim_small that merges in the odd blocks",
    ),
    PaperItem(
        "19",
        "Accuracy before and after re-training, odd blocks",
        Needs("vim_small", checkpoints=f"{SMALL}; re-trained with odd blocks"),
        accuracy_and_flops,
        "needs valid runs of vim_small that merges in the odd blocks, before and after re-training",
    ),
)
