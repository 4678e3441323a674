"""Tables beside other methods: images 2 and 21 (odd blocks), video clips 13 and 14. FLOPs are computed, not measured."""

from __future__ import annotations

from rmeeto_bench.report.paper.item import Needs, PaperItem
from rmeeto_bench.report.paper.matching import accuracy_and_flops

CLIPS = "Kinetics-400 validation set, 8 frames, 4 clips x 3 crops"

ITEMS = (
    PaperItem(
        "2",
        "Comparison on ImageNet-1k",
        Needs("vim_* and videomamba_*", checkpoints="public baselines and the authors' re-trained ones"),
        accuracy_and_flops,
        "accuracies need valid runs of the models with baseline and re-trained weights; quoted methods have none of ours",
    ),
    PaperItem(
        "21",
        "Comparison with merging in the odd blocks",
        Needs("vim_tiny, vim_small", checkpoints="public baselines; re-trained with odd blocks"),
        accuracy_and_flops,
        "accuracies need valid runs of Vims that merge in the odd blocks; quoted methods have none of ours",
    ),
    PaperItem(
        "13",
        "Comparison on Kinetics-400 at r = 88",
        Needs("videomamba_*_k400_f8", CLIPS, "public baselines and re-trained ones"),
        accuracy_and_flops,
        "accuracies need valid runs of the video models on Kinetics-400, computed FLOPs a model of this name",
    ),
    PaperItem(
        "14",
        "Accuracy on Kinetics-400 without training at every r",
        Needs("videomamba_*_k400_f8", CLIPS, "public baselines"),
        accuracy_and_flops,
        "needs valid runs of the video models on Kinetics-400",
    ),
)
