"""`rmeeto-bench ablate` and `visualize` end to end, and the judgement behind the ablation table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rmeeto_bench.ablate.ablations import Settings, Variation, _delta, _verdict, run_studies
from rmeeto_bench.ablate.studies import Study, Variant, choose_studies, studies
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.cli.main import main
from rmeeto_bench.data.image_set import Batch
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.records.run import Estimate
from rmeeto_bench.reduction.config import Ablation, ReductionConfig

NAMES = {
    "metric", "distance", "choose-k", "mode", "interval", "placement", "final-tokens", "cls-position", "order", "shuffle",
    "grouping", "random-r", "random-pair", "prune", "baselines",
}  # fmt: skip


@pytest.mark.parametrize("hard", [False, True])
def test_a_batch_that_not_every_variant_saw_is_dropped(monkeypatch: pytest.MonkeyPatch, *, hard: bool) -> None:
    seen: list[int] = []
    see = Variation.see

    def counted(arm: Variation, batch: Batch) -> list[Any]:
        seen.append(batch.start)
        if hard and len(seen) == 5:
            raise KeyboardInterrupt
        return see(arm, batch)

    monkeypatch.setattr(Variation, "see", counted)
    weights = bundled_checkpoint("vim_nano", 0)
    assert weights is not None
    data = fashion_mnist.load("test").subset(40)
    settings = Settings("vim_nano", weights, batch_size=10)
    rows = run_studies(choose_studies(("order",), 5), settings, data, lambda *_: None, lambda: len(seen) >= 5)
    assert seen == [0, 0, 0, 10, 10]
    assert {row.images for row in rows} == {10}


def test_an_ablation_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["ablate", "order", "random-r", "--images", "60", "--batch-size", "30", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "| unordered | 0.31 |" in capsys.readouterr().out
    record = json.loads((tmp_path / "vim_nano.json").read_text(encoding="utf-8"))
    rows = {(row["study"], row["label"]): row for row in record["rows"]}
    assert set(rows) == {
        ("order", "ordered"), ("order", "unordered"), ("order", "unordered, by score (upstream)"),
        ("random-r", "closest"), ("random-r", "random r"),
    }  # fmt: skip
    drawn, kept = rows["random-r", "random r"], rows["order", "ordered"]
    assert (drawn["seeds"], kept["seeds"], drawn["images"]) == (2, 1, 60)
    assert drawn["spread"] is not None
    assert kept["top1"] == rows["random-r", "closest"]["top1"]
    unordered = rows["order", "unordered"]
    difference = unordered["top1"]["value"] - kept["top1"]["value"]
    assert unordered["delta"]["value"] == pytest.approx(difference)
    assert difference < 0
    table = list(csv.DictReader((tmp_path / "vim_nano.csv").open(encoding="utf-8")))
    assert float(table[1]["delta"]) == pytest.approx(difference)
    assert "5 images" not in (tmp_path / "vim_nano.md").read_text(encoding="utf-8")


def test_every_ablation_of_the_issue_is_there_and_listed(capsys: pytest.CaptureFixture) -> None:
    assert set(studies(11)) == NAMES
    assert main(["ablate"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in NAMES)
    assert {study.name for study in choose_studies((), 11)} == NAMES


def test_labels_are_unique_and_references_exist() -> None:
    for study in studies(11).values():
        labels = [variant.label for variant in study.variants]
        assert len(labels) == len(set(labels))
        assert all(variant.versus in ("", *labels) for variant in study.variants)


def test_a_stochastic_variant_draws_by_seed_and_by_batch() -> None:
    variant = Variant("drawn", ReductionConfig(r=11, ablation=Ablation(shuffle=0.7)))
    checkpoint = bundled_checkpoint("vim_nano", 0)
    assert checkpoint is not None
    data = fashion_mnist.load("test").subset(40)
    settings = Settings("vim_nano", checkpoint, batch_size=20, seeds=3)
    runs = [run_studies((Study("s", "", "", (variant,)),), settings, data, lambda *_: None, lambda: False) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][0].spread is not None


def test_stopping_keeps_whole_batches() -> None:
    asked: list[None] = []

    def in_the_second_batch() -> bool:
        asked.append(None)
        return len(asked) > 3  # two variants a batch

    checkpoint = bundled_checkpoint("vim_nano", 0)
    assert checkpoint is not None
    chosen = choose_studies(("cls-position",), 11)
    rows = run_studies(
        chosen,
        Settings("vim_nano", checkpoint, batch_size=20),
        fashion_mnist.load("test"),
        lambda *_: None,
        in_the_second_batch,
    )
    assert [row.images for row in rows] == [20, 20]


@pytest.mark.parametrize(
    ("finding", "low", "high", "verdict"),
    [
        ("worse", -3.0, -1.0, "holds"),
        ("worse", 0.2, 1.0, "does not hold"),
        ("worse", -0.2, 0.1, "does not hold"),
        ("worse", -2.0, 1.0, "undecided"),
        ("same", -0.3, 0.4, "holds"),
        ("same", -3.0, -1.0, "does not hold"),
        ("same", -3.0, 1.0, "undecided"),
        ("not better", -9.0, -3.0, "holds"),
        ("not better", 0.1, 2.0, "does not hold"),
        ("not better", -1.0, 2.0, "undecided"),
        ("", -1.0, 2.0, ""),
    ],
)
def test_verdicts(finding: str, low: float, high: float, verdict: str) -> None:
    assert _verdict(finding, Estimate((low + high) / 2, low, high)) == verdict


def test_a_difference_is_paired_by_image() -> None:
    reference = np.array([[True] * 50 + [False] * 50])
    same = _delta(reference, reference)
    edge = 100 * 1.96**2 / (100 + 1.96**2)  # Tango's interval of 100 pairs that all agree
    assert (same.value, same.low, same.high) == pytest.approx((0, -edge, edge), abs=0.01)
    several = _delta(reference, np.stack([reference[0], ~reference[0]]))
    assert several.value == pytest.approx(0)


def photograph(path: Path, size: tuple[int, int] = (90, 70), shade: int = 0) -> Path:
    x, y = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(0, 200, size[1]))
    Image.fromarray(np.stack([x, y, 0 * x + 50 + shade], axis=2).astype(np.uint8)).save(path)
    return path


def test_a_photograph_is_drawn_beside_its_original(tmp_path: Path) -> None:
    image, out = photograph(tmp_path / "view.png"), tmp_path / "out"
    assert main(["visualize", str(image), "--stages", "--out", str(out)]) == 0
    with Image.open(out / "view_r11.png") as drawn:
        assert drawn.size == (5 * 448 + 4 * 8, 448)  # the original, four stages, white between them
    assert (out / "contact_sheet.png").stat().st_size > 10_000
    assert main(["visualize", str(image), "--ratio", "0.54", "--prune", "--format", "pdf", "--out", str(out)]) == 0
    assert (out / "contact_sheet.pdf").read_bytes().startswith(b"%PDF")
    assert (out / "view_r20.png").is_file()


def test_a_clip_needs_its_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i in range(3):
        photograph(tmp_path / f"{i}.png", shade=i)
    assert main(["visualize", str(tmp_path), "--model", "videomamba_tiny_k400_f8"]) == 2
    assert "takes 8" in capsys.readouterr().err
