"""A training, or a file, that is there stays there unless `--force` says otherwise: files that `retrain` wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from fresh import commands
from programs import Retrained
from safetensors import safe_open

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.reader import read_checkpoint, sha256


def test_a_training_is_done_once_and_replaced_only_by_force(retrained: Retrained, tmp_path: Path) -> None:
    shutil.copytree(retrained.folder, tmp_path / "checkpoints")
    shutil.copytree(retrained.data, tmp_path / "other")
    (tmp_path / "other" / "train" / "bag" / "0.png").write_bytes((retrained.data / "train" / "bag" / "1.png").read_bytes())
    file = tmp_path / "checkpoints" / retrained.file.name
    before = sha256(file)
    given = ["retrain", *retrained.flags, "--out", "checkpoints"]
    again, resumed, rate, seed, others, half, start, both, pushed, twice, pulled, drawn = commands(
        [*given, "--data", retrained.data],
        [*given, "--data", retrained.data, "--resume"],
        [*given, "--data", retrained.data, "--lr", "0.002"],
        [*given, "--data", retrained.data, "--seed", "7", "--resume"],
        [*given, "--data", "other"],
        [*given, "--data", retrained.data, "--half"],
        [*given, "--data", retrained.data, "--init", bundled_checkpoint("vim_nano", 5)],
        [*given, "--data", retrained.data, "--resume", "--force"],
        ["push", file, "--to", "published"],
        ["push", file, "--to", "published"],
        ["pull", "published", "--out", "mine"],
        ["visualize", retrained.data / "val" / "bag" / "0.png", "--checkpoint", file, "--out", "pictures"],
        cwd=tmp_path,
    )
    for done in (again, resumed):
        assert (done.code, "already done" in done.out, "step" in done.err) == (0, True, False), done
    expected = {
        rate: "recipe.schedule.lr 0.001, not 0.002",
        seed: "recipe.seed 0, not 7",
        others: "images ",
        half: "dtype fp32, not fp16",
        start: "--init vim_nano_r0.safetensors sha256",
    }
    for done, says in expected.items():
        assert done.code == 2, done
        assert len(done.err.splitlines()) == 1
        assert says in done.err
        assert "--force replaces it" in done.err
    assert both.code == 2
    assert sha256(file) == before
    # What is published says the number of classes and the whole reduction, and is not replaced either.
    assert (pushed.code, twice.code, pulled.code, drawn.code) == (0, 2, 0, 0), (pushed, pulled, drawn)
    assert "--force replaces it" in twice.err
    assert json.loads((tmp_path / "published" / "config.json").read_text())["num_classes"] == 3
    card = (tmp_path / "published" / "README.md").read_text()
    assert "| classes | 3 |" in card
    assert "| reduction | r = 11, prune |" in card
    mine = tmp_path / "mine" / "vim_nano_r11.safetensors"
    assert read_checkpoint(mine).provenance.reduction == read_checkpoint(file).provenance.reduction
    assert (tmp_path / "pictures" / "0_r11.png").is_file()
    kept = sha256(mine)
    same, refused, forced, kept_out = commands(
        ["pull", "published", "--out", "mine"],
        ["pull", "published", "--out", "checkpoints"],
        ["push", bundled_checkpoint("vim_nano", 11), "--to", "published", "--force"],
        ["pull", "published", "--out", "mine"],
        cwd=tmp_path,
    )
    assert (same.code, refused.code, forced.code, kept_out.code) == (0, 0, 0, 2)  # r11-prune and r11 are two names
    assert "is there and is another file; --force replaces it" in kept_out.err
    assert sha256(mine) == kept


def test_a_training_that_was_cut_short_is_gone_on_with_and_a_forced_one_is_new(retrained: Retrained, tmp_path: Path) -> None:
    """What a killed training leaves is a state and no file of weights; --class-map decides the numbers of the classes."""
    (tmp_path / "map.txt").write_text("shoe\nbag\ncoat\n")
    given = ["retrain", *retrained.flags, "--data", retrained.data, "--class-map", "map.txt", "--out", "o", "--save-every", "1"]
    (whole,) = commands(given, cwd=tmp_path)
    assert whole.code == 0, whole
    file = tmp_path / "o" / retrained.file.name
    assert read_checkpoint(file).provenance.class_names == ("shoe", "bag", "coat")
    states = file.with_suffix(".state")
    states.mkdir()
    with safe_open(str(file), "pt") as opened:
        told = {key.removeprefix("rmeeto."): text for key, text in opened.metadata().items()}
    torch.save({"decided": told, "step": 2}, states / "step_00000002.pt")
    file.unlink()
    without, other = commands(given, [*given, "--resume", "--lr", "0.002"], cwd=tmp_path)
    assert (without.code, other.code) == (2, 2)
    assert "was not finished; --resume continues it, --force starts again" in without.err
    assert "is of another training: recipe.schedule.lr 0.001, not 0.002" in other.err
    assert (states / "step_00000002.pt").is_file()
