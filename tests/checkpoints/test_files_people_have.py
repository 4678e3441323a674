"""Files as training scripts and downloads leave them, read as `verify` and `load_checkpoint` read them."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fresh import commands
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.checkpoints.reader import load_checkpoint, read_checkpoint, sha256
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.models.zoo import create_model

SOURCE = bundled_checkpoint("vim_nano", 11)
OTHER = bundled_checkpoint("vim_nano", 0)
assert SOURCE is not None
assert OTHER is not None


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return load_file(SOURCE)


@pytest.fixture(scope="module")
def other() -> dict[str, Tensor]:
    return load_file(OTHER)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


WRAPPINGS: dict[str, Any] = {
    "flat": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3, "optimizer": {"lr": 1.0}},
    "state_dict": lambda s: {"state_dict": s},
    "module": lambda s: {"module": s},
    "nested": lambda s: {"model": {"module": s}},
    "data parallel": lambda s: {"model": under("module.", s)},
    "backbone": lambda s: under("backbone.", s),
    "distill head": lambda s: {"model": {**s, "distill_head.0.weight": torch.ones(3)}},
    "torch.compile": lambda s: under("_orig_mod.", s),
    "compiled and parallel": lambda s: {"model": under("module._orig_mod.", s)},
    "lightning": lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 1.0}},
    "an unknown name": lambda s: {"generator": {"inner": under("trunk.", s)}},
    "stochastic weight averaging": lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)},
    "an average alone": lambda s: {"model_ema": s},
    "DINO": lambda s: {"teacher": under("backbone.", s)},
    "a head beside the backbone": lambda s: {("" if k.startswith("head.") else "backbone.") + k: v for k, v in s.items()},
    "a path": lambda s: {"model": s, "args": argparse.Namespace(output_dir=pathlib.Path("x"))},
    "numpy's numbers": lambda s: {"model": s, "best": [np.int32(3), np.bool_(True), np.float16(1), np.arange(3)]},
    "containers": lambda s: {"model": s, "log": collections.defaultdict(list), "n": collections.deque([1])},
}


@pytest.mark.filterwarnings("ignore:.* holds averaged weights alone")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_load_equal(wrapping: str, state: dict, tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(WRAPPINGS[wrapping](state), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
        provenance = load_checkpoint(create_model("vim_nano"), tmp_path / "c.pth")
        found = read_checkpoint(tmp_path / "c.pth").state_dict
        assert (provenance.sha256, provenance.epoch) == (sha256(tmp_path / "c.pth"), 3 if wrapping == "model" else None)
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_the_content_decides_and_not_the_name(state: dict, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.pth", {"rmeeto.r": "11"})
    torch.save(state, tmp_path / "b.safetensors")
    assert read_checkpoint(tmp_path / "a.pth").provenance.trained_r == 11
    assert read_checkpoint(tmp_path / "b.safetensors").provenance.format == "torch"


def test_shards_are_joined_and_an_index_leads_nowhere_else(state: dict, tmp_path: Path) -> None:
    names = sorted(state)
    where = {name: f"model-{1 + (number % 2)}.safetensors" for number, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert read_checkpoint(index).state_dict.keys() == state.keys()
    for weight_map, says in (
        ({}, "no shards"),
        ({"a": "../up.safetensors"}, "tampered"),
        ({"a": "gone.safetensors"}, "download it too"),
        ({**where, "more": "model-1.safetensors"}, "do not agree about more"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=says):
            read_checkpoint(index)


def test_a_program_and_an_archive_are_named_as_what_they_are(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "c.pth").write_bytes(b"\x1f\x8b" + bytes(40))
    for name, says in (("script.pt", "TorchScript"), ("a.npz", "numpy arrays"), ("c.pth", "gzip")):
        with pytest.raises(CheckpointError, match=says):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("student", "teacher")])
def test_averages_are_chosen_by_ema_and_else_named(names: tuple[str, str], state: dict, other: dict, tmp_path: Path) -> None:
    torch.save({names[0]: other, names[1]: under("module.", state)}, tmp_path / "c.pth")
    plain, average = read_checkpoint(tmp_path / "c.pth"), read_checkpoint(tmp_path / "c.pth", ema=True)
    assert torch.equal(plain.state_dict["cls_token"], other["cls_token"])
    assert names[1] in plain.provenance.notes[0]
    assert torch.equal(average.state_dict["cls_token"], state["cls_token"])
    assert (average.provenance.averaged, average.provenance.notes) == (True, ())


def test_damaged_and_doubled_files_do_not_pass_verify(state: dict, other: dict, tmp_path: Path) -> None:
    content = SOURCE.read_bytes()
    for name, kept in (("half", 2), ("tail", 8)):
        whole = len(content) - len(content) // kept
        (tmp_path / f"{name}.safetensors").write_bytes(content[:whole] + bytes(len(content) - whole))
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, tmp_path / "zero.safetensors")
    save_file({key: torch.full_like(value, 0.1) for key, value in state.items()}, tmp_path / "constant.safetensors")
    save_file({**state, "head.weight": torch.zeros_like(state["head.weight"])}, tmp_path / "head.safetensors")
    save_file({**state, "head.weight": state["head.weight"].to(torch.int8)}, tmp_path / "int8.safetensors")
    torch.save({**under("module.", state), **under("backbone.", other)}, tmp_path / "two.pth")
    torch.save({"best": state, "last": other}, tmp_path / "both.pth")
    torch.save({**state, "cls_token": torch.ones(1, 1, 1).expand(1, 10**9, 10**6)}, tmp_path / "bomb.pth")
    expected = {
        "half.safetensors": "damaged|zero", "tail.safetensors": "zero", "zero.safetensors": "zero throughout",
        "constant.safetensors": "0.0999756 throughout", "head.safetensors": "head.weight is zero",
        "int8.safetensors": "quantised", "two.pth": "2 models", "both.pth": "2 models", "bomb.pth": "fill the memory",
    }  # fmt: skip
    every = commands(*(["verify", "--model", "vim_nano", name] for name in expected), cwd=tmp_path)
    for done, (name, says) in zip(every, expected.items(), strict=True):
        assert (done.code, done.err.count("\n"), name in done.err) == (2, 1, True), done
        assert any(word in done.err for word in says.split("|")), done


def test_verify_says_that_averages_are_there(state: dict, other: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"model": other, "model_ema": state}, tmp_path / "c.pth")
    assert main(["verify", str(tmp_path / "c.pth")]) == 0
    assert "note        c.pth also holds averaged weights (model_ema), which are not used" in capsys.readouterr().out
