"""torch.compile as an arm: it runs compiled or fails in one line, and the arms beside it go on."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh import PLAIN, Done, start
from torch import Tensor, nn

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.processes import worker_environment
from rmeeto_bench.cost.counted import counted_gflops
from rmeeto_bench.cpus import STEP_THREADS
from rmeeto_bench.errors import ArmError, UsageError
from rmeeto_bench.models.compiled import CompiledForward
from rmeeto_bench.models.foreign import ForeignConfig, ForeignModel
from rmeeto_bench.models.graphs import GraphedForward
from rmeeto_bench.models.zoo import create_model

# 5 tokens, of which merging leaves 3 and then 2: three programs in all. The last batch has two images.
SMALL = "--gpus none --model vim_nano_4 --compile --backend chunked --batch-size 4 --images 6"
NAMES = ["vim_nano_4/r0", "vim_nano_4/r2", "compile:vim_nano_4/r0", "compile:vim_nano_4/r2"]


def said(line: str, folder: Path, **variables: object) -> Done:
    return start(line.split(), folder, {**os.environ, **PLAIN, **{name: str(value) for name, value in variables.items()}})


def arms(folder: Path) -> dict[str, dict[str, Any]]:
    return {arm["arm"]: arm for arm in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["arms"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where torch keeps what it compiled, for all tests here."""
    return tmp_path_factory.mktemp("inductor")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, brief: Path, cache: Path) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("compiled")
    line = f"{SMALL} --quick --r 0,2 --out c"
    return folder / "c", said(line, folder, PYTHONPATH=brief, TORCHINDUCTOR_CACHE_DIR=cache)


def test_compiled_arms_share_the_rounds_of_the_others(run: tuple[Path, Done]) -> None:
    folder, done = run
    assert done.code == 0, done.err
    found = arms(folder)
    assert list(found) == NAMES
    assert {arm["verdict"] for arm in found.values()} <= {"EXPLORATORY", "NOT_STEADY", "CONTENDED"}, (
        found
    )  # as it comes: all ran
    assert len({arm["rounds"] for arm in found.values()}) == 1
    assert {arm["baseline"] for arm in found.values()} == {"vim_nano_4/r0"}
    for name in NAMES[:2]:
        plain, compiled = found[name], found[f"compile:{name}"]
        assert (plain["backend"], compiled["backend"]) == ("chunked", "chunked, compiled (inductor)")
        assert (plain["compile_seconds"], plain["recompilations"]) == (None, None)
        assert compiled["compile_seconds"] > 0
        assert compiled["recompilations"] == 0
        same = ("checkpoint_sha256", "token_counts", "top1", "n_images", "weights", "gflops")
        assert [compiled[field] for field in same] == [plain[field] for field in same]
    assert done.out.count("apart from all times: compile:vim_nano_4/r0") == 1
    assert "failed" not in done.err


def test_the_pipeline_of_less_than_a_batch_is_not_timed(brief: Path, tmp_path: Path) -> None:
    """It would run uncompiled, and through no graph."""
    line = "--gpus none --model vim_nano_4 --batch-size 8 --images 6 --quick --r 0 --fed --inputs random --out f"
    done = said(line, tmp_path, PYTHONPATH=brief)
    assert done.code == 0, done.err
    assert "less than a batch of 8: --fed times nothing" in done.err
    assert [arm["fed"] for arm in arms(tmp_path / "f").values()] == [None]


def test_compile_seconds_are_columns_and_the_run_resumes(run: tuple[Path, Done]) -> None:
    folder, _ = run
    with (folder / "table.csv").open(encoding="utf-8") as rows:
        seconds = {row["arm"]: row["compile_seconds"] for row in csv.DictReader(rows)}
    assert [bool(seconds[name]) for name in NAMES] == [False, False, True, True]
    done = said(f"resume {folder}", folder)
    assert done.code == 0, done.err
    assert "building" not in done.err  # nothing was missing
    assert list(arms(folder)) == NAMES


def test_no_compiler_and_no_compiling_are_one_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    wrong = {
        "CXX": ("/nonexistent", "torch.compile found no C++ compiler; install g++"),
        "TORCH_COMPILE_DISABLE": ("1", "torch compiles nothing here; unset TORCH_COMPILE_DISABLE"),
    }
    for variable, (value, words) in wrong.items():
        line = f"{SMALL} --r 0 --accuracy-only --out {variable}"
        done = said(line, tmp_path, **{variable: value, "TORCHINDUCTOR_CACHE_DIR": tmp_path / "none"})
        assert done.code == 0, done.err
        assert len(done.lines(f"compile:vim_nano_4/r0 failed: {words}")) == 1, done.err
        found = arms(tmp_path / variable)
        assert [(arm["verdict"], arm["n_images"]) for arm in found.values()] == [("VALID", 6), ("ARM_FAILED", 0)]


def test_a_compiled_model_gives_the_logits_of_the_eager_one(
    run: tuple[Path, Done], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    model, plain = (create_model("vim_nano_4", r=2, backend="chunked") for _ in range(2))
    plain.load_state_dict(model.freeze().state_dict())
    compiled, images = CompiledForward(model), torch.randn(4, 1, 4, 4)
    with torch.inference_mode():
        right = plain(images)
        assert torch.allclose(compiled(images), right, atol=1e-5)
        assert compiled.graphs == 7  # a norm and a mixer for each of three lengths, and the first norm, which has no residual
        seconds = compiled.seconds
        assert torch.allclose(compiled(images.clone()), right, atol=1e-5)  # a tensor of inference mode is another kind
        assert torch.allclose(compiled(images.transpose(2, 3).contiguous().transpose(2, 3)), right, atol=1e-5)
        assert torch.equal(GraphedForward(model, compiled)(images), compiled(images))  # what a CUDA graph would capture
        assert torch.allclose(compiled.eager(images[:3]), right[:3], atol=1e-5)
        assert (compiled.graphs, compiled.seconds, compiled.recompilations) == (7, seconds, 0)
        with pytest.raises(ArmError, match=r"compiled for batches \[4, 1, 4, 4\], not \[3, 1, 4, 4\]"):
            compiled(images[:3].clone())
        model.layers[3].norm.eps = 1e-3  # type: ignore[index, union-attr]  # what torch has as a constant in its program
        with pytest.raises(ArmError, match="compiled it again while it was measured"):
            compiled(images)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1)).relu()


def test_a_model_of_others_is_compiled_whole_and_its_operations_are_counted_without_compiling() -> None:
    compiled, images = (
        CompiledForward(ForeignModel(Small().eval(), ForeignConfig((1, 2, 2), 3), "timm")),
        torch.randn(2, 1, 2, 2),
    )
    with torch.inference_mode():
        assert torch.allclose(compiled(images), compiled.eager(images), atol=1e-6)
    with compiled.switched_off():
        assert counted_gflops(compiled.model.inner, (1, 2, 2)) == pytest.approx(12e-9)  # type: ignore[union-attr, arg-type]
    assert (compiled.graphs, compiled.recompilations) == (1, 0)


class Breaks(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return images.flatten(1)


def test_a_graph_break_is_no_silent_fallback() -> None:
    compiled = CompiledForward(ForeignModel(Breaks(), ForeignConfig((1, 2, 2), 4), "timm"))
    with torch.inference_mode(), pytest.raises(ArmError, match="cannot make one graph of it .*graph_break"):
        compiled(torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize("changes", [{"what": "train"}, {"sweep": True}, {"paper_mode": True}])
def test_what_is_not_compiled_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="run forwards at one batch size alone; leave out"):
        BenchPlan(models=("compile:vim_nano",), **changes)
    with pytest.raises(UsageError, match="is an arm of `run`"):
        create_model("compile:vim_nano")


@pytest.mark.parametrize("given", ["", "/tmp/torchinductor_root", "/scratch/mine"])
def test_processes_share_a_folder_that_no_other_user_can_write(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if given:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", given)
    timed, read = (worker_environment("cpu", kind, threads) for kind, threads in (("timing", None), ("accuracy", 1)))
    folder = Path(timed["TORCHINDUCTOR_CACHE_DIR"])
    assert read["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert read[STEP_THREADS] == timed[STEP_THREADS]  # or the accuracy pass compiles everything again
    if given == "/scratch/mine":
        assert str(folder) == given
    else:
        assert folder.stat().st_mode & 0o777 == 0o700
