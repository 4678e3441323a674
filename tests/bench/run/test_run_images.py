"""`run` on images of one's own: the class map is used, a doubtful accuracy is said, an unreadable image stops or is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_harness import controls
from PIL import Image

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.errors import DataError
from rmeeto_bench.measure.protocol import PRESETS, QUICK
from rmeeto_bench.records.run import RunRecord
from rmeeto_bench.report.run.summary import sentences

COUNT = 240


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(QUICK, block_seconds=0.01, min_rounds=3, max_rounds=3, warmup_seconds=0.0, warmup_limit=0.5)
    monkeypatch.setitem(PRESETS, "quick", replace(short, max_rejected=50))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test images of Fashion-MNIST as PNG files by class."""
    data, folder = fashion_mnist.load("test"), tmp_path_factory.mktemp("made") / "val"
    batch = next(iter(data.batches(COUNT)))
    for number, (image, label) in enumerate(zip(batch.pixels.numpy(), batch.labels.tolist())):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"class{label}" / f"{number:04d}.png")
    return folder


def measured(out: Path, data: Path, class_map: list[int], **changes: object) -> RunRecord:
    names = out.with_suffix(".txt")
    names.write_text("".join(f"class{number}\n" for number in class_map), encoding="utf-8")
    values = {"rs": (0,), "gpus": "none", "preset": "quick", "batch_size": 16, "data": data, "class_map": names}
    return run(BenchPlan(**{**values, **changes}), out, controls())  # type: ignore[arg-type]


def test_the_class_map_decides_and_a_shuffled_one_is_said(folders: Path, tmp_path: Path) -> None:
    right = measured(tmp_path / "right", folders, list(range(10)))
    assert right.arms[0].top1.value > 80
    assert not [line for line in sentences(right) if "doubtful" in line]
    wrong = measured(tmp_path / "wrong", folders, [*range(1, 10), 0])
    assert wrong.arms[0].top1.value < 20
    assert [line for line in sentences(wrong) if "doubtful" in line and "check the order of the class map" in line]


def test_an_unreadable_image_stops_the_run_or_is_counted(folders: Path, tmp_path: Path) -> None:
    data = tmp_path / "val"
    for path in sorted(folders.rglob("*.png")):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).write_bytes(path.read_bytes())
    last = sorted(data.rglob("*.png"))[-1]
    last.write_bytes(last.read_bytes()[:60])
    skipping = measured(tmp_path / "skip", data, list(range(10)), on_error="skip")
    assert skipping.data["vim_nano"]["unreadable"] == 1
    assert skipping.arms[0].n_images == COUNT - 1
    assert [line for line in sentences(skipping) if "left out, 1: " in line and last.name in line]
    with pytest.raises(DataError, match=last.name):
        measured(tmp_path / "stop", data, list(range(10)))


def test_a_plan_with_such_files_survives_the_manifest(tmp_path: Path) -> None:
    plan = BenchPlan(data=tmp_path, labels=tmp_path / "labels", class_map=tmp_path / "map", on_error="skip")
    assert BenchPlan.from_dict(plan.as_dict()) == plan
    before = {name: value for name, value in plan.as_dict().items() if name not in ("labels", "class_map", "on_error")}
    assert BenchPlan.from_dict(before) == BenchPlan(data=tmp_path)
