"""Publishing: what is pushed comes back equal, timm reads it with its r, and the card says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from sample_runs import cpu_run

import rmeeto_bench as rb
from rmeeto_bench.checkpoints import catalogue, publish
from rmeeto_bench.checkpoints.publish import Publication, card, is_hub_name, pull, write_repository
from rmeeto_bench.checkpoints.reader import read_checkpoint, sha256
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import CheckpointError, UnavailableError
from rmeeto_bench.records.run import save

SIZES = {"depth": 4, "embed_dim": 32}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A small vim_tiny, trained at r = 5 if one believes its header."""
    torch.manual_seed(0)
    model = rb.create_model("vim_tiny", r=5, **SIZES)
    metadata = {"model": "vim_tiny", "r": "5", "recipe": "paper", "epochs": "3.00", "top1": "61.20", "data": "a | b <i>`x`"}
    return save_checkpoint(model.state_dict(), tmp_path / "vim_tiny_r5.safetensors", metadata=metadata)


def publication(checkpoint: Path) -> Publication:
    return Publication(checkpoint, "vim_tiny_patch16_224", "vim_tiny", 5, 0.05, 1000, sizes=SIZES)


def test_timm_reads_the_folder_with_its_r_and_its_weights(trained: Path, tmp_path: Path) -> None:
    folder = write_repository(publication(trained), tmp_path / "repo")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.reduction.r == 5
    expected = read_checkpoint(trained).state_dict
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_what_is_pushed_comes_back_under_the_benchmarks_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = catalogue.bundled_checkpoint("vim_nano", 11)
    assert source is not None
    assert main(["push", str(source), "--to", str(tmp_path / "repo"), "--base", "me/vim_nano"]) == 0
    assert main(["pull", str(tmp_path / "repo"), "--out", str(tmp_path / "checkpoints")]) == 0
    path = tmp_path / "checkpoints" / "vim_nano_r11.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    one, other = read_checkpoint(source), read_checkpoint(path)
    assert all(torch.equal(value, other.state_dict[key]) for key, value in one.state_dict.items())
    assert other.provenance.trained_r == 11
    assert other.provenance.metadata["recipe"] == one.provenance.metadata["recipe"]


def test_the_card_says_what_was_measured_and_where_it_is_from(tmp_path: Path) -> None:
    source = catalogue.bundled_checkpoint("vim_nano", 10)
    assert source is not None
    record = cpu_run()
    measured = tuple(
        replace(arm, checkpoint_sha256=sha256(source) if arm.r == 10 else arm.checkpoint_sha256) for arm in record.arms
    )
    save(replace(record, arms=measured), tmp_path / "run")
    line = ["push", str(source), "--to", str(tmp_path / "repo"), "--run", str(tmp_path / "run"), "--license", "apache-2.0"]
    assert main(line) == 0
    text = (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
    head, body = text.split("---\n")[1:3]
    data = yaml.safe_load(head)
    assert data["license"] == "apache-2.0"
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(0.796)
    assert "79.60 % [79.25, 79.95] (95 % interval) on 50000 images of val" in body
    assert "-0.90 points [-1.10, -0.70] (paired by image)" in body
    assert "| reduction ratio | 0.2792 |" in body
    for said in (sha256(source), sha256(tmp_path / "repo" / "model.safetensors"), record.run_id, "nano_retrain"):
        assert said in body


def test_without_a_run_the_card_claims_no_interval(trained: Path, tmp_path: Path) -> None:
    write_repository(publication(trained), tmp_path / "repo")
    text = (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
    assert "61.20 % top-1 at the end of the training, without an interval" in text
    assert "model-index" not in text
    assert "a \\| b &lt;i>'x'" in text  # metadata of a stranger's file is text in a table


def test_a_run_that_did_not_measure_the_file_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(cpu_run(), tmp_path / "run")
    line = ["push", str(trained), "--to", str(tmp_path / "repo"), "--run", str(tmp_path / "run")]
    assert main(line) == 2
    assert "has no accuracy of the file" in capsys.readouterr().err
    assert not (tmp_path / "repo").exists()


def test_nothing_else_is_published(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "secret.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"secret\.txt"):
        write_repository(publication(trained), tmp_path / "repo")


def edit(folder: Path, **own: object) -> None:
    path = folder / "config.json"
    value = json.loads(path.read_text())
    value["rmeeto_bench"].update(own)
    path.write_text(json.dumps(value))


def test_tampered_repositories_are_refused(trained: Path, tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        return write_repository(publication(trained), tmp_path / name)

    def refused(folder: Path, says: str) -> None:
        scratch = tmp_path / f"scratch-{folder.name}"
        scratch.mkdir()
        with pytest.raises(CheckpointError, match=says):
            pull(str(folder), tmp_path / "out", scratch)
        assert not (tmp_path / "out").exists()

    edit(fresh("path"), model="../../evil")
    refused(tmp_path / "path", "tampered")
    edit(fresh("digest"), sha256="0" * 64)
    refused(tmp_path / "digest", "not the file its config describes")
    edit(fresh("kind"), r="5")
    refused(tmp_path / "kind", "no config that `push` wrote")
    (fresh("json") / "config.json").write_text("[" * 100_000)
    refused(tmp_path / "json", "no config that `push` wrote")
    (fresh("link") / "model.safetensors").unlink()
    (tmp_path / "link" / "model.safetensors").symlink_to(trained)
    refused(tmp_path / "link", "has no model.safetensors")
    refused(tmp_path / "absent", "neither a folder nor")


def test_names_of_the_hub_and_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "folder").mkdir(parents=True)
    assert is_hub_name("org/repo")
    for name in ("my/folder", "./org/repo", "../repo", "/abs/repo", "repo", "a/b/c", "or g/repo", "~/repo"):
        assert not is_hub_name(name), name


def unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no route\nmore words")


def page(*_: object, **__: object) -> None:
    """A proxy's page instead of JSON: the hub's client raises what `json` raises."""
    json.loads("<html>")


@pytest.mark.parametrize("answer", [unreachable, page])
def test_without_an_answer_of_a_hub_push_and_pull_are_one_line(
    answer: Callable[..., None], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish.HfApi, "create_repo", answer)
    monkeypatch.setattr(publish, "snapshot_download", answer)
    folder = write_repository(publication(trained), tmp_path / "repo")
    with pytest.raises(UnavailableError, match=r"cannot push to org/repo \((no route|Expecting value).*\); log in"):
        publish.push(folder, "org/repo")
    with pytest.raises(UnavailableError, match="cannot fetch org/repo"):
        pull("org/repo", tmp_path / "out", tmp_path)


def test_the_card_is_what_is_written(trained: Path, tmp_path: Path) -> None:
    folder = write_repository(publication(trained), tmp_path / "repo")
    text = card(publication(trained), read_checkpoint(trained), sha256(folder / "model.safetensors"))
    assert text == (folder / "README.md").read_text(encoding="utf-8")
