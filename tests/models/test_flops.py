"""FLOPs against the recorded counters of upstream and the paper's printed values."""

import csv

import pytest

from rmeeto_bench.cost.flops import count_flops, published_gflops
from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import shipped
from rmeeto_bench.models.sizes import config
from rmeeto_bench.reduction.config import ReductionConfig, upstream_exact

NAMES = {
    "Vim-Ti": "vim_tiny",
    "Vim-S": "vim_small",
    "Vim-B": "vim_base",
    "VideoM-Ti (8f)": "videomamba_tiny_k400_f8",
    "VideoM-S (8f)": "videomamba_small_k400_f8",
    "VideoM-M (8f)": "videomamba_middle_k400_f8",
}


def table() -> list[dict[str, str]]:
    with (shipped("paper") / "computed_flops.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["model"] in NAMES]


@pytest.mark.parametrize("row", table(), ids=lambda row: f"{row['model']}-r{row['r']}-{row['placement']}")
def test_every_convention_equals_the_recorded_counters(row: dict[str, str]) -> None:
    reduction = ReductionConfig(r=int(row["r"]), placement=row["placement"])
    sizes = config(NAMES[row["model"]])
    hook, analytic = count_flops(sizes, reduction, "hook"), count_flops(sizes, reduction, "analytic")
    found = {
        "hook_total_G": hook.total,
        "hook_without_merge_G": hook.layers,
        "analytic_total_G": analytic.total,
        "analytic_layers_only_G": analytic.layers,
        "hook_total_compare11_G": count_flops(sizes, upstream_exact(int(row["r"]), placement=row["placement"]), "hook").total,
        "both_directions_total_G": count_flops(sizes, reduction, "bidirectional").total,
    }
    for name, value in found.items():
        if row[name]:
            assert value == pytest.approx(float(row[name]), abs=5.1e-5), name  # four printed decimals
    if row["placement"] == "even" and row["paper_G"]:
        assert published_gflops(sizes, reduction) == pytest.approx(float(row["paper_G"]), abs=6e-3)


def test_the_final_tokens_rule_is_counted_as_executed() -> None:
    sizes = config("vim_tiny")
    assert count_flops(sizes, ReductionConfig(r=5, final_tokens=76), "hook").total == pytest.approx(1.2448, abs=1e-4)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(UsageError, match="hook"):
        count_flops(config("vim_tiny"), ReductionConfig(), "macs")
