"""Checkpoints cut anywhere or of another model are refused in one line, and what is written reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import load_checkpoint, read_checkpoint
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.errors import CheckpointError, UnavailableError
from rmeeto_bench.models.zoo import create_model

SMALL = {"depth": 2, "embed_dim": 16}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model("vim_nano", **SMALL).state_dict()


def write(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not there"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["zip", "legacy", "safetensors"]))
def test_a_truncated_file_is_always_a_checkpoint_error(tmp_path: Path, state: dict, share: float, kind: str) -> None:
    path = tmp_path / ("whole.safetensors" if kind == "safetensors" else "whole.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        write(path, {"model": state}, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    cut = tmp_path / f"cut{path.suffix}"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError):
        read_checkpoint(cut)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"depth": 2, "embed_dim": 32}, "width 16, this one has 32"),
        ({"depth": 2, "embed_dim": 16, "num_classes": 7}, "num_classes=10"),
        ({"depth": 2, "embed_dim": 16, "patch_size": 4}, "made for 197 tokens, the model has 50"),
        ({"depth": 3, "embed_dim": 16}, "lacks layers.2"),
        ({"depth": 1, "embed_dim": 16}, "also holds layers.1"),
    ],
)
def test_a_checkpoint_of_another_model_says_which_mistake(tmp_path: Path, state: dict, sizes: dict, says: str) -> None:
    path = write(tmp_path / "c.pth", state)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(create_model("vim_nano", **sizes), path)
    assert "\n" not in str(caught.value)


def test_what_is_written_reads_back_with_its_settings(tmp_path: Path, state: dict) -> None:
    path = save_checkpoint(
        state, tmp_path / "a" / "vim_nano_r5.safetensors", metadata={"r": "5", "model": "vim_nano"}, dtype=torch.float16
    )
    model = create_model("vim_nano", **SMALL)
    provenance = load_checkpoint(model, path)
    assert provenance.trained_r == 5
    assert provenance.metadata["model"] == "vim_nano"
    assert model.cls_token.dtype == torch.float32
    assert torch.allclose(model.cls_token, state["cls_token"], atol=1e-3)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, state: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rmeeto_bench.checkpoints.writer.save_file", full)
    with pytest.raises(UnavailableError, match="disk space"):
        save_checkpoint(state, tmp_path / "c.safetensors", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_hub_names_without_a_network_say_which_file_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _offline)
    with pytest.raises(CheckpointError, match=r"hf download hustvl/Vim-small-midclstok vim_s_midclstok_80p5acc\.pth"):
        resolve("vim_small")
    with pytest.raises(CheckpointError, match=r"x.pth.*a/b"):
        resolve("a/b:x.pth")
    with pytest.raises(CheckpointError, match="there is no file or folder nothing-like-it; give a path"):
        resolve("nothing-like-it")


def _offline(repo: str, filename: str, *, local_files_only: bool = False) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("not cached" if local_files_only else "no network")


def test_a_cached_hub_file_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repo: str, filename: str, *, local_files_only: bool = False) -> str:
        assert local_files_only
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    assert resolve("vim_tiny") == tmp_path / "vim_t_midclstok_76p1acc.pth"
