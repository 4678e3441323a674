"""FLOPs against the recorded counters of upstream and the paper's printed values."""

import csv

import pytest
import torch

from rmeeto_bench.cost.counted import counted_gflops
from rmeeto_bench.cost.flops import count_flops, gflops_by_convention, operations, published_gflops
from rmeeto_bench.cost.roofline import share_of_peak
from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import shipped
from rmeeto_bench.models.sizes import config
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.published import throughput
from rmeeto_bench.reduction.config import PRESETS, ReductionConfig, upstream_exact

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


def test_the_presets_differ_where_the_released_defaults_over_merge() -> None:
    paper, exact = (PRESETS[name](5) for name in ("paper", "upstream_exact"))
    assert round(count_flops(config("vim_tiny"), paper).total, 3) == 1.284
    assert round(count_flops(config("vim_tiny"), exact).total, 3) == 1.245


def test_true_operations_count_multiply_adds_twice_and_both_directions() -> None:
    small = config("vim_small")
    assert operations(small, ReductionConfig()) == pytest.approx(10.76, abs=0.005)
    both = count_flops(small, ReductionConfig(r=11), "bidirectional")
    assert both.total < operations(small, ReductionConfig(r=11)) < 2 * both.total


@pytest.mark.parametrize(
    ("gpu", "share"), [("h100-sxm", 0.021), ("a100-sxm-40", 0.035), ("a4000", 0.056), ("v100", 0.063), ("rtx4090", 0.096)]
)
def test_the_published_rates_are_these_shares_of_the_tensor_peak(gpu: str, share: float) -> None:
    """Worked out by hand from Table 12 and the datasheets, operations being what is really done."""
    profile = next(profile for profile in load_profiles() if profile.name == gpu)
    published = throughput("vim_small", profile.paper_column, 0)
    done = operations(config("vim_small"), ReductionConfig())
    assert share_of_peak(published["images_per_second"], done, profile) == pytest.approx(share, abs=0.0006)


def test_all_names_at_once_are_the_single_counts() -> None:
    sizes, reduction = config("vim_base"), ReductionConfig(r=11)
    values = gflops_by_convention(sizes, reduction)
    assert len(values) == 7
    assert values["paper"] == values["hook"] == published_gflops(sizes, reduction)
    assert values["analytic_without_matching"] == count_flops(sizes, reduction, "analytic").layers


class Asks(torch.nn.Linear):
    """A module whose forward depends on the numbers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (2 if images.sum().item() > 0 else 1)


def test_torch_counts_a_module_without_touching_it_and_says_nothing_of_one_that_asks_for_numbers() -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), Asks(8 * 25, 4)
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert counted_gflops(module[:3], (3, 5, 5)) == pytest.approx(25 * 8 * 27 / 1e9)
    assert counted_gflops(module, (3, 5, 5)) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
