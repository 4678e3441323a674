"""r, ratio, tokens and class positions against the paper's Table 10 and the recorded schedules."""

import csv

import pytest

from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import shipped
from rmeeto_bench.reduction.config import ReductionConfig, paper, upstream_exact
from rmeeto_bench.reduction.schedule import (
    PAPER_RATIOS,
    merges,
    merging_blocks,
    moved_cls_position,
    r_for_ratio,
    reduction_ratio,
    token_counts,
    vit_schedule,
)

FINAL = {0: 197, 5: 142, 10: 87, 11: 76, 13: 54, 15: 32, 20: 6}
RATIOS = {0: 0.0, 5: 0.1396, 10: 0.2792, 11: 0.3071, 13: 0.3629, 15: 0.4188, 20: 0.5398}
ODD_RATIOS = {5: 0.1523, 10: 0.3046, 11: 0.3350, 13: 0.3959, 15: 0.4569, 20: 0.5806}


@pytest.mark.parametrize(("r", "ratio"), RATIOS.items())
def test_even_placement_reproduces_table_10(r: int, ratio: float) -> None:
    counts = token_counts(paper(r))
    assert counts[-1] == FINAL[r]
    assert reduction_ratio(counts, 197) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(("nominal", "r"), PAPER_RATIOS.items())
def test_table_10_ratios_lead_to_their_r(nominal: float, r: int) -> None:
    assert r_for_ratio(nominal)[0] == r


@pytest.mark.parametrize(("r", "ratio"), ODD_RATIOS.items())
def test_odd_placement_removes_more(r: int, ratio: float) -> None:
    assert reduction_ratio(token_counts(paper(r, placement="odd")), 197) == pytest.approx(ratio, abs=5e-5)


def recorded() -> list[dict[str, str]]:
    with (shipped("paper") / "computed_token_counts.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if "DeiT" not in row["family"]]


@pytest.mark.parametrize(
    "row", recorded(), ids=lambda row: f"{row['depth']}-{row['placement']}-{row['interval']}-{row['r']}-{row['compare']}"
)
def test_recorded_token_counts(row: dict[str, str]) -> None:
    final = max(2, 197 - 11 * int(row["compare"])) if row["compare"] else None
    config = ReductionConfig(r=int(row["r"]), placement=row["placement"], interval=int(row["interval"]), final_tokens=final)
    counts = token_counts(config, depth=int(row["depth"]), initial_tokens=int(row["L0"]))
    assert list(counts) == [int(word) for word in row["tokens_entering_mixer_per_block"].split()]
    assert reduction_ratio(counts, int(row["L0"])) == pytest.approx(float(row["reduction_ratio"]), abs=6e-5)


@pytest.mark.parametrize(("depth", "ratio", "final"), [(24, 0.3085, 601), (32, 0.4207, 249)])
def test_video_schedule(depth: int, ratio: float, final: int) -> None:
    counts = token_counts(paper(88), depth=depth, initial_tokens=1569)
    assert (counts[-1], round(reduction_ratio(counts, 1569), 4)) == (final, ratio)


def test_vit_ratio_equals_the_even_schedule_of_vim() -> None:
    for r in (5, 11):
        assert reduction_ratio(vit_schedule(paper(r), depth=12, initial_tokens=197)[:-1], 197) == pytest.approx(
            RATIOS[r], abs=5e-5
        )


@pytest.mark.parametrize(
    ("config", "trace"),
    [
        (paper(5), [98, 95, 92, 89, 86, 83, 80, 77, 74, 71, 68, 65]),
        (paper(11), [98, 92, 86, 80, 74, 68, 62, 56, 50, 44, 39, 34]),
        (upstream_exact(20), [98, 88, 78, 68, 58, 48, 38, 28, 18, 9, 4, 4]),
        (paper(11, ordered=False), [98, 87, 76, 66, 57, 48, 40, 33, 26, 20, 15, 11]),
    ],
)
def test_class_token_drifts_as_recorded(config: ReductionConfig, trace: list[int]) -> None:
    position, tokens = 98, 197  # in the middle
    removed = merges(config, depth=24, initial_tokens=197)
    for block, expected in zip(range(0, 24, 2), trace, strict=True):
        position = moved_cls_position(position, tokens, removed.get(block, 0), ordered=config.ordered)
        tokens -= removed.get(block, 0)
        assert position == expected


@pytest.mark.parametrize(
    ("r", "final", "ratio"), [(5, 76, 0.1675), (0, 99, 0.0415), (1, 94, None), (13, 67, None), (20, 10, None)]
)
def test_final_tokens_rule_of_the_released_code(r: int, final: int, ratio: float | None) -> None:
    counts = token_counts(upstream_exact(r))
    assert counts[-1] == final
    if ratio is not None:
        assert reduction_ratio(counts, 197) == pytest.approx(ratio, abs=5e-5)


def test_block_zero_never_merges_and_intervals_are_kept() -> None:
    assert merging_blocks(24, "even", 2) == tuple(range(2, 24, 2))
    assert merging_blocks(24, "odd", 2) == tuple(range(1, 24, 2))
    assert len(merging_blocks(32, "even", 2)) == 15
    assert 0 not in merging_blocks(24, "odd", 1)


@pytest.mark.parametrize(
    "changes", [{"r": -1}, {"placement": "all"}, {"interval": 0}, {"distance": "dot"}, {"final_tokens": 1}]
)
def test_bad_settings_are_refused(changes: dict) -> None:
    with pytest.raises(UsageError):
        ReductionConfig(**changes)


def test_a_ratio_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        r_for_ratio(1.0)
