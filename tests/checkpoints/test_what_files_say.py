"""What a weights file says of itself is obeyed, and what it does not say is not made up: files that `retrain` wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bench_harness import controls
from fresh import commands
from made_images import write_grey_folders
from programs import Retrained
from safetensors.torch import load_file

import rmeeto_bench as rb
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import resume, run
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.cli.commands.run import check_same
from rmeeto_bench.errors import CheckpointError, UsageError

EVAL = ("eval", "--gpus", "none", "--workers", "0")


def arms(place: Path) -> dict[int, dict]:
    """r -> the row of an evaluation's record."""
    return {arm["r"]: arm for arm in json.loads(place.read_text(encoding="utf-8"))["arms"]}


def test_the_file_of_a_training_says_how_it_was_made(retrained: Retrained) -> None:
    told = read_checkpoint(retrained.file).provenance
    assert told.reduction == rb.ReductionConfig(r=11, prune=True)
    assert (told.num_classes, told.class_names) == (3, ("bag", "coat", "shoe"))
    assert told.metadata["init"].startswith("vim_nano_r0.safetensors sha256 ")
    assert json.loads(told.metadata["settings"])["schedule"]["epochs"] == 1.0
    assert told.metadata["preprocessing"].startswith("Preprocessing(size=28, short=28, channels=1")
    assert (told.metadata["num_classes"], told.metadata["finished"], told.metadata["dtype"]) == ("3", "yes", "fp32")
    assert 0 < float(told.metadata["reduction_ratio"]) < 1
    assert len(told.metadata["data"].split("digest ")[1]) == 32


def test_an_evaluation_does_what_the_training_did_or_says_the_difference(retrained: Retrained, tmp_path: Path) -> None:
    """The same preparation, classes, labels and reduction: then top-1 is the very number that the training ended with."""
    given = [*EVAL, "--data", retrained.data / "val", "--on-error", "skip"]  # val/ lacks a class
    same, other, missing = commands(
        [*given, "--r", "11", "--checkpoints", retrained.folder, "--out", "a"],
        [*given, "--r", "11,20", "--checkpoints", retrained.file, "--out", "b", "--json", "b.json"],
        [*given, "--r", "11", "--checkpoints", retrained.file, "--class-map", "none.txt"],
        cwd=tmp_path,
    )
    assert (same.code, missing.code) == (2, 2)
    assert "has no vim_nano_r0.safetensors" in same.err
    assert other.code == 0, other
    rows = arms(tmp_path / "b.json")
    assert (rows[11]["reduction"], rows[11]["weights"], rows[11]["known_by"]) == ("r = 11, prune", "retrained", "metadata")
    assert (rows[20]["reduction"], rows[20]["weights"]) == ("r = 20, prune", "trained at r=11")
    assert rows[0]["reduction"] == "r = 0"
    assert rows[11]["n_images"] == 12
    assert f"{rows[11]['top1']['value']:.2f}" == read_checkpoint(retrained.file).provenance.metadata["top1"]
    (said,) = other.lines("was trained with")
    assert said.endswith("vim_nano_r11-prune.safetensors was trained with r = 11, prune, evaluated with r = 0, 20")
    assert "merging: prune at r = 11, 20, as in the training" in other.out


def test_a_model_made_from_a_file_merges_as_the_file_says(retrained: Retrained) -> None:
    made = rb.create_model("vim_nano", checkpoint=retrained.file)
    assert made.reduction == rb.ReductionConfig(r=11, prune=True)
    assert made.head.out_features == 3
    with pytest.warns(UserWarning, match="trained with r = 11, prune, evaluated with r = 5") as caught:
        assert rb.create_model("vim_nano", r=5, checkpoint=retrained.file).reduction.prune
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="was trained with r = 11, prune; the model has r = 11"):
        rb.load_checkpoint(rb.create_model("vim_nano", r=11, num_classes=3), retrained.file)


def test_labels_say_what_is_known_and_nothing_else(tmp_path: Path) -> None:
    """The file's own words, else r in its name, else that nobody knows."""
    write_grey_folders(tmp_path / "d", {str(i): i for i in range(10)}, training=1, validation=2)
    (tmp_path / "d" / "val" / "9").mkdir()
    shutil.copy(tmp_path / "d" / "train" / "9" / "0.png", tmp_path / "d" / "val" / "9")
    for folder in ("named", "swapped", "odd"):
        (tmp_path / folder).mkdir()
    files = {r: bundled_checkpoint("vim_nano", r) for r in (0, 11)}
    for r, file in files.items():
        assert file is not None
        torch.save(load_file(file), tmp_path / "named" / f"vim_nano_r{r}.pth")
    torch.save(load_file(files[11]), tmp_path / "best.pth")  # type: ignore[arg-type]
    shutil.copy(files[11], tmp_path / "swapped" / "vim_nano_r0.safetensors")  # type: ignore[arg-type]
    given = [*EVAL, "--data", "d/val"]
    named, swapped, unknown, dry = commands(
        [*given, "--r", "11", "--checkpoints", "named", "--json", "named.json"],
        [*given, "--r", "0", "--checkpoints", "swapped", "--json", "swapped.json"],
        [*given, "--r", "11", "--checkpoints", "best.pth", "--json", "unknown.json"],
        ["run", "--gpus", "none", "--r", "11", "--dry-run", "--checkpoints", "named"],
        cwd=tmp_path,
    )
    rows = {name: arms(tmp_path / f"{name}.json") for name in ("named", "swapped", "unknown")}
    assert [(rows["named"][r]["weights"], rows["named"][r]["known_by"]) for r in (0, 11)] == [
        ("baseline", "file name"),
        ("retrained", "file name"),
    ]
    assert (rows["swapped"][0]["weights"], rows["swapped"][0]["known_by"]) == ("trained at r=11", "metadata")
    assert {rows["unknown"][r]["weights"] for r in (0, 11)} == {"unknown origin"}
    assert "weights: known by the names of their files at r = 0, 11" in named.out
    assert "unknown origin at r = 0, 11; nothing says with which r they were trained" in unknown.out
    assert "vim_nano_r11.pth (retrained, known by file name)" in dry.out
    assert swapped.code == 0


def averaged(folder: Path) -> Path:
    """A file with bad weights and a good average."""
    good, bad = (load_file(bundled_checkpoint("vim_nano", r)) for r in (0, 20))  # type: ignore[arg-type]
    torch.save({"state_dict": bad, "state_dict_ema": good}, folder / "vim_nano_r0.pth")
    return folder / "vim_nano_r0.pth"


def test_averaged_weights_are_said_and_taken_with_ema(tmp_path: Path) -> None:
    path = averaged(tmp_path)
    given = [*EVAL, "--r", "0", "--images", "50"]
    plain, average, refused, dry = commands(
        [*given, "--checkpoints", path, "--json", "plain.json"],
        [*given, "--checkpoints", path, "--ema", "--json", "ema.json", "--out", "o"],
        [*given, "--checkpoints", "bundled", "--ema"],
        ["run", "--gpus", "none", "--r", "0", "--dry-run", "--checkpoints", path],
        cwd=tmp_path,
    )
    says = "vim_nano_r0.pth also holds averaged weights (state_dict_ema), which are not used"
    assert (len(plain.lines(says)), len(average.lines(says)), says in dry.out) == (1, 0, True)
    before, after = (arms(tmp_path / name)[0] for name in ("plain.json", "ema.json"))
    assert (before["averaged"], after["averaged"]) == (False, True)
    assert after["top1"]["value"] > before["top1"]["value"]
    assert "weights: averaged (EMA) at r = 0" in average.out
    assert refused.code == 2
    assert "has no EMA weights" in refused.err


def test_a_run_keeps_the_choice_of_averages_and_the_file_it_was_measured_with(tmp_path: Path) -> None:
    path = averaged(tmp_path)
    plan = BenchPlan(
        models=("vim_nano",), rs=(0,), gpus="none", preset="quick", images=8, batch_size=4, checkpoints=str(path), ema=True
    )
    record = run(plan, tmp_path / "run", controls())
    assert (record.arms[0].averaged, record.arms[0].known_by, record.plan["ema"]) == (True, "file name", True)
    assert BenchPlan.from_dict(record.plan).ema
    with pytest.raises(UsageError, match="--ema True, not False"):
        check_same(tmp_path / "run", BenchPlan(ema=False), {"ema"})
    shutil.copy(bundled_checkpoint("vim_nano", 0), path)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has no EMA weights"):
        resume(tmp_path / "run", controls())
    torch.save({"model_ema": load_file(bundled_checkpoint("vim_nano", 20))}, path)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="is not the checkpoint that vim_nano/r0 was measured with"):
        resume(tmp_path / "run", controls())
