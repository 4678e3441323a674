"""`run` on images of one's own: the class map is used, and a doubtful accuracy is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_harness import controls, short
from PIL import Image

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.data.layouts import fashion_mnist
from rmeeto_bench.records.run import RunRecord
from rmeeto_bench.report.run.summary import sentences

COUNT = 240


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


def test_the_class_map_decides_and_a_shuffled_one_is_said(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    right = measured(tmp_path / "right", folders, list(range(10)))
    assert right.arms[0].top1.value > 80
    assert not [line for line in sentences(right) if "doubtful" in line]
    wrong = measured(tmp_path / "wrong", folders, [*range(1, 10), 0])
    assert wrong.arms[0].top1.value < 20
    assert [line for line in sentences(wrong) if "doubtful" in line and "check the order of the class map" in line]


def test_a_plan_with_such_files_survives_the_manifest(tmp_path: Path) -> None:
    plan = BenchPlan(data=tmp_path, labels=tmp_path / "labels", class_map=tmp_path / "map", on_error="skip")
    assert BenchPlan.from_dict(plan.as_dict()) == plan
    before = {name: value for name, value in plan.as_dict().items() if name not in ("labels", "class_map", "on_error")}
    assert BenchPlan.from_dict(before) == BenchPlan(data=tmp_path)
