"""The public checkpoints: the whole catalogue of the specification, resolved per model and ratio, and files verified."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmeeto_bench.bench.plan.plan import BenchPlan, cells
from rmeeto_bench.bench.plan.weights import choose
from rmeeto_bench.checkpoints import catalogue, hub
from rmeeto_bench.checkpoints.catalogue import PUBLIC, find, for_model
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.files import shipped

NANO = catalogue.BUNDLED / "vim_nano_r5.safetensors"


def test_every_public_checkpoint_of_the_paper_is_listed() -> None:
    with (shipped("paper") / "checkpoints.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["model"].rstrip().endswith("+")]  # stride 8: another model
    assert len(PUBLIC) == len(rows)
    for row in rows:
        name = row["file_name"].removeprefix("folder ").split(" ")[0]
        entries = [e for e in PUBLIC if any(name in f"{e.repo}/{filename}" for filename in e.filenames)]
        assert len(entries) == 1, name
        assert f"{entries[0].top1:g}" in row["top1_reported"]
        assert ("EMA" in row["top1_reported"] or "model_ema" in row["notes"]) == entries[0].ema
    assert len({entry.name for entry in PUBLIC}) == len(PUBLIC)


@pytest.mark.parametrize(
    ("model", "r", "name"),
    [
        ("vim_small", 0, "vim_small"),
        ("vim_small", 11, "vim_small_rmeeto_r11"),
        ("vim_small", 5, "vim_small"),
        ("vim_tiny", 5, "vim_tiny_rmeeto_r5"),
        ("deit_small", 13, "deit_small_tome_r13"),
    ],
)
def test_the_zoo_has_the_retrained_weights_of_a_ratio_or_the_baselines(model: str, r: int, name: str) -> None:
    entry = for_model(model, r)
    assert entry.name == name
    assert find(name) == entry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the files of vim_small, laid out as the hub's client does, and no network."""
    for repo, filename, digest in (
        ("hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth", "a" * 64),
        ("Soptq/R-Meeto", "Vim-S_15epoch_80.0/checkpoint.pth", "b" * 64),
    ):
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        commit = "c" * 40
        for part in ("refs", "blobs", f"snapshots/{commit}"):
            (folder / part).mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "blobs" / digest).write_bytes(b"weights")
        link = folder / "snapshots" / commit / filename
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder / "blobs" / digest)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_download", lambda repo, filename: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_the_cache_serves_the_zoo_offline(here: Path) -> None:
    baseline, merged = cells(BenchPlan(models=("vim_small",), rs=(0, 11)), "vim_small")
    first, second = choose(baseline, "zoo"), choose(merged, "zoo")
    assert (first.path.name, first.published) == ("vim_s_midclstok_80p5acc.pth", find("vim_small"))
    assert (second.path.name, second.published) == ("checkpoint.pth", find("vim_small_rmeeto_r11"))
    (other,) = [cell for cell in cells(BenchPlan(models=("vim_small",), rs=(5,)), "vim_small") if cell.r == 5]
    assert choose(other, "zoo").published == find("vim_small")


def test_offline_the_message_says_which_file_goes_where(here: Path) -> None:
    (_, cell) = cells(BenchPlan(models=("vim_tiny",), rs=(0, 5)), "vim_tiny")
    with pytest.raises(CheckpointError) as refused:
        choose(cell, "zoo")
    for part in ("Soptq/R-Meeto", "Vim-Ti_30epoch_75.3/model_best.pth", str(here), "vim_tiny_r5.pth", "--checkpoints FOLDER"):
        assert part in str(refused.value)
    entry = find("deit_small")
    assert entry is not None
    with pytest.raises(CheckpointError, match=r"dl\.fbaipublicfiles\.com/deit/deit_small_patch16_224-cd65a155\.pth"):
        hub.fetch(entry)


def test_a_download_that_is_not_the_published_file_is_refused(here: Path) -> None:
    entry = find("deit_small")
    path = here / "torch" / "checkpoints" / entry.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="sha256 differs"):
        hub.fetch(entry)


def test_a_model_without_public_weights_is_told_so() -> None:
    (cell,) = cells(BenchPlan(rs=(0,)), "vim_nano")
    with pytest.raises(CheckpointError, match="no public checkpoint of vim_nano"):
        choose(cell, "zoo")


def test_models_lists_all_with_what_is_known(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "--json", "-"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {entry.name for entry in PUBLIC}
    assert rows["vim_small"]["sha256"] == "a" * 64  # the hub's client names its files so
    assert rows["vim_small"]["size"] == 7
    assert rows["vim_tiny"]["size"] is None
    assert rows["deit_small_tome_r13"]["licence"] == "CC-BY-NC-4.0"
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "vim_base_rmeeto_r11" in shown
    assert "Soptq/R-Meeto:Vim-B_15epochs_81.3/model_best.pth" in shown


def _verify(words: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    code = main(["verify", *words])
    heard = capsys.readouterr()
    return code, heard.out, heard.err


def test_verify_says_what_a_good_file_is(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = _verify([str(NANO), "--model", "vim_nano"], capsys)
    assert code == 0
    for part in (
        "415 float16",
        "bidirectional Mamba",
        "r = 5",
        "fits        vim_nano\n",
        "262,602 parameters",
        "classes     10",
    ):
        assert part in out
    code, out, _ = _verify([str(NANO)], capsys)  # the file says of which model it is
    assert code == 0
    assert "fits        vim_nano, as the file says" in out


def test_verify_reads_the_settings_of_upstreams_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = {key: value.float() for key, value in load_file(NANO).items()}
    args = argparse.Namespace(num_prune=11, merge_interval=2, if_order=True, distance="cosine", lr=1e-5)
    torch.save({"model": state, "epoch": 14, "args": args}, tmp_path / "checkpoint.pth")
    code, out, _ = _verify([str(tmp_path / "checkpoint.pth")], capsys)
    assert code == 0
    for part in ("in model", "r = 11", "num_prune 11", "merge_interval 2", "if_order True", "epoch       14", "give --model"):
        assert part in out


def test_verify_names_the_family_of_a_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, str(tmp_path / "x.safetensors"))
    code, _, error = _verify([str(tmp_path / "x.safetensors"), "--model", "vim_nano"], capsys)
    assert code == 2
    assert "a vision transformer (DeiT)" in error
    assert _verify([str(tmp_path / "none.pth")], capsys)[0] == 2
    assert _verify([str(NANO), "--model", "vim_huge"], capsys)[0] == 2
