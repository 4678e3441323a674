"""Logs of re-training beside the paper's re-trained numbers: each beside its own setting, length and hardware."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rmeeto_bench.errors import DataError
from rmeeto_bench.reduction.config import Ablation, ReductionConfig
from rmeeto_bench.report.paper.item import Ours
from rmeeto_bench.report.paper.read_trainings import load_trainings
from rmeeto_bench.report.paper.registry import TABLES, fill
from rmeeto_bench.report.paper.sources import gather


def training_log(folder: Path, **changes: object) -> None:
    """A log as `retrain` writes it: Vim-S at r = 11 for 3 epochs on four A100, 107 minutes, 79.3 %."""
    known = {"model": "vim_small", "epochs": 3.0, "top1": 79.3, "seed": 0, "fraction": 1.0, "processes": 4, "minutes": 107.0}
    reduction = ReductionConfig(r=11)
    known |= {"reduction": reduction, "device": "NVIDIA A100-SXM4-80GB", "interrupted": False, **changes}
    assert isinstance(known["reduction"], ReductionConfig)
    recipe = {"name": "paper", "seed": known["seed"], "fraction": known["fraction"]}
    head = {
        "model": known["model"], "reduction": asdict(known["reduction"]), "recipe": recipe, "data": "imagenet/train",
        "device": known["device"], "processes": known["processes"],
    }  # fmt: skip
    line = {"step": 1, "epoch": known["epochs"], "images_per_second": 1.0, "seconds": 1.0}
    seconds = 60 * float(str(known["minutes"]))
    tail = {"top1": known["top1"], "n_images": 50_000, "seconds": seconds, "interrupted": known["interrupted"]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"log{len(list(folder.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(part) + "\n" for part in (head, line, tail)), encoding="utf-8")


def from_logs(name: str, *folders: Path) -> dict[tuple[str, ...], Ours]:
    table = fill(TABLES[name], gather([], trained=load_trainings(folders)))
    return {line.keys: line.ours for line in table.lines if line.ours is not None}


def test_a_training_stands_beside_the_rows_of_its_own_length_and_setting(tmp_path: Path) -> None:
    training_log(tmp_path / "a")
    rows = from_logs("9", tmp_path)
    assert sorted(key[1] for key in rows) == ["top-1 (%)", "wall time (min)"]
    assert {key[0] for key in rows} == {"3"}
    ours = rows["3", "wall time (min)"]
    assert (ours.value, ours.comparable) == (107.0, True)
    top1 = rows["3", "top-1 (%)"]
    assert top1.value == pytest.approx(79.3)
    assert top1.low is not None
    assert top1.high is not None
    assert 0.6 < top1.high - top1.low < 0.8  # 50,000 images
    assert list(from_logs("17", tmp_path)) == [("Vim-S", "re-trained 3ep", "11", "sum", "top-1 (%)")]
    assert from_logs("8", tmp_path) != {}
    assert from_logs("3", tmp_path) == {}  # other GPUs


@pytest.mark.parametrize(
    ("name", "reduction", "value"),
    [
        ("4", ReductionConfig(r=11, ordered=False), "no"),
        ("7", ReductionConfig(r=11, distance="l1"), "l1"),
        ("15", ReductionConfig(r=11, choose_k=14), "14"),
        ("16", ReductionConfig(r=11, interval=4, final_tokens=76), "4"),
        ("17", ReductionConfig(r=11, mode="amax"), "max"),
        ("20", ReductionConfig(r=11, ablation=Ablation(grouping="front_behind")), "front-behind"),
        ("5b", ReductionConfig(r=11, ablation=Ablation(shuffle=0.3), prune=True), "0.3"),
        ("19", ReductionConfig(r=5, placement="odd"), "5"),
    ],
)
def test_every_setting_finds_its_own_row_alone(tmp_path: Path, name: str, reduction: ReductionConfig, value: str) -> None:
    training_log(tmp_path, reduction=reduction)
    (keys,) = from_logs(name, tmp_path)
    assert value in keys
    assert ("pruning" in keys) == reduction.prune


def test_minutes_on_many_gpus_and_parts_of_the_data(tmp_path: Path) -> None:
    for model, machines, minutes in (("vim_tiny", 1, 15.0), ("vim_tiny", 4, 4.0)):
        training_log(tmp_path, model=model, processes=8 * machines, minutes=minutes, device="NVIDIA H100 80GB HBM3")
    training_log(tmp_path / "parts", fraction=0.05, top1=78.0, epochs=30.0)
    assert [ours.value for ours in from_logs("3", tmp_path).values()] == [15.0, 4.0]
    (part,) = from_logs("8", tmp_path / "parts").items()
    assert "5%" in part[0]
    assert part[1].value == pytest.approx(78.0)


def test_seeds_are_averaged_and_a_training_cut_short_counts_for_nothing(tmp_path: Path) -> None:
    for seed, top1 in enumerate((79.0, 79.2, 79.6)):
        training_log(tmp_path, seed=seed, top1=top1)
    training_log(tmp_path, top1=10.0, interrupted=True)
    ours = from_logs("9", tmp_path)["3", "top-1 (%)"]
    assert ours.value == pytest.approx(79.2667, abs=1e-3)
    assert "3 seeds" in ours.match
    training_log(tmp_path, seed=3, device="NVIDIA L4", processes=1, minutes=900.0)
    assert from_logs("9", tmp_path)["3", "wall time (min)"].value == 107.0  # minutes are of one kind of machine
    assert ours.high is not None
    assert ours.high - ours.value > 0.7  # Student's t of three, and the images


def test_the_bundled_model_stands_in_but_not_for_another_length_in_the_table_of_lengths(tmp_path: Path) -> None:
    training_log(tmp_path, model="vim_nano", epochs=1.0, fraction=0.5, device="cpu", processes=1)
    assert {key[0] for key in from_logs("9", tmp_path)} == {"1"}
    assert from_logs("8", tmp_path) == {}
    rows = from_logs("17", tmp_path)
    assert {key[0] for key in rows} == {"Vim-S"}
    assert not any(ours.comparable for ours in rows.values())


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no .jsonl"):
        load_trainings([tmp_path])
    (tmp_path / "a.jsonl").write_text('{"recipe": {}}\n{"top1": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match="none of `rmeeto-bench retrain`"):
        load_trainings([tmp_path])
