"""Odd members among checkpoints: each ends in one line that names the file and what to do, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_harness import controls
from fresh import commands
from safetensors.torch import load_file, save_file

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.checkpoints.catalogue import bundled_checkpoint
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.models.zoo import create_model


def odd_files(folder: Path) -> dict[str, str]:
    """Name of a file in `folder` -> a word of the line about it."""
    good = bundled_checkpoint("vim_nano", 0)
    state, content = load_file(good), good.read_bytes()
    (folder / "folder.safetensors").mkdir()
    (folder / "empty.pth").write_bytes(b"")
    (folder / "link.pth").symlink_to(folder / "gone.pth")
    (folder / "long.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + content[8:])
    (folder / "longer.safetensors").write_bytes((10**11).to_bytes(8, "little") + content[8:])
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode().rstrip()
    first = json.dumps({"head.bias": json.loads(header)["head.bias"]})[1:-1]
    doubled = (header[:-1] + "," + first + "}").encode()
    (folder / "twice.safetensors").write_bytes(len(doubled).to_bytes(8, "little") + doubled + content[8 + len(header) :])
    save_file({**state, "head.bias": torch.full_like(state["head.bias"], float("nan"))}, folder / "nan.safetensors")
    other = {key: value + 0.01 for key, value in create_model("vim_nano", embed_dim=16).state_dict().items()}
    save_file(other, folder / "other.safetensors")
    expected = {
        "folder.safetensors": "is a folder; give the checkpoint file in it", "empty.pth": "is empty; download it again",
        "link.pth": "is not there", "long.safetensors": "damaged", "longer.safetensors": "damaged",
        "twice.safetensors": "damaged", "nan.safetensors": "holds NaN or infinity", "other.safetensors": "width 16",
    }  # fmt: skip
    if os.geteuid():  # root reads everything
        (folder / "closed.pth").write_bytes(content)
        (folder / "closed.pth").chmod(0)
        expected["closed.pth"] = "cannot read"
    return expected


def test_each_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    expected = odd_files(tmp_path)
    verified = commands(*(["verify", "--model", "vim_nano", name] for name in expected), cwd=tmp_path)
    folders = []
    for number, name in enumerate(expected):  # the same in a folder of checkpoints, under the name that is looked for
        place = tmp_path / f"folder{number}"
        place.mkdir()
        (tmp_path / name).rename(place / f"vim_nano_r0{Path(name).suffix}")
        folders.append(["eval", "--gpus", "none", "--r", "0", "--checkpoints", place.name])
    runs = [["run", *words[1:], "--dry-run"] for words in folders]
    evaluated = commands(*folders, *runs, cwd=tmp_path)
    for done, says in zip([*verified, *evaluated], [*expected.values()] * 3, strict=True):
        assert done.code == 2, done
        assert len(done.err.splitlines()) == 1, done
        assert says in done.err


def test_a_file_that_vanishes_or_is_replaced_after_the_run_began_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "vim_nano_r0.safetensors"
    others = {"vanished": path.unlink, "replaced": lambda: shutil.copy(bundled_checkpoint("vim_nano", 5), path)}  # type: ignore[arg-type]
    for name, change in others.items():
        shutil.copy(bundled_checkpoint("vim_nano", 0), path)  # type: ignore[arg-type]

        def between(job: Job, change: object = change) -> None:
            change()  # type: ignore[operator]

        plan = BenchPlan(models=("vim_nano",), rs=(0,), gpus="none", preset="quick", images=8, batch_size=4)
        with pytest.raises(CheckpointError, match="is not there" if name == "vanished" else "was changed after the run began"):
            run(replace(plan, checkpoints=str(tmp_path)), tmp_path / name, controls(between))
        assert not (tmp_path / name).exists()  # nothing was measured, so nothing is left
