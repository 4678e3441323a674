"""Arms that are not ours: timm's models, the user's functions, callables from Python; what fails leaves the rest in peace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from bench_harness import Heard, controls
from fresh import PLAIN, commands
from PIL import Image
from programs import program
from safetensors.torch import save_file

import rmeeto_bench as rb
from rmeeto_bench.bench.plan.others import resolve_timm
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.session.built_arm import Setting
from rmeeto_bench.bench.session.other_arm import build_other
from rmeeto_bench.data.preprocessing import declared
from rmeeto_bench.errors import ArmError, UsageError
from rmeeto_bench.measure.devices.device import CpuDevice
from rmeeto_bench.measure.protocol import PRESETS, QUICK
from rmeeto_bench.models import timm_arms
from rmeeto_bench.models.foreign import Guarded
from rmeeto_bench.records.run import RunRecord
from rmeeto_bench.report.run.files import write_all

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
BROKEN = """
import pathlib
import torch

pathlib.Path("imported").touch()


def raises():
    raise RuntimeError("no licence")


def loses_an_image():
    return lambda images: images.flatten(1)[:-1]


def needs_a_gpu():
    return torch.nn.Linear(784, 10).cuda()


def takes_one(x):
    return x


def fails_later(device, dtype):
    calls = []

    def forward(images):
        calls.append(1)
        if len(calls) > 5:
            raise ValueError("the fifth was the last")
        return torch.zeros(len(images), 10, device=device, dtype=dtype)

    return forward


def seven():
    return 7


def built():
    pathlib.Path("built").touch()
    return torch.nn.Linear(224, 10)
"""
FAILING = {
    "raises": "RuntimeError: no licence",
    "loses_an_image": "it returned logits [3, 784], not [4, classes]",
    "needs_a_gpu": "",  # what torch says depends on its build
    "fails_later": "ValueError: the fifth was the last",
    "seven": "its function returned int, not a module or a callable",
}


PLAN = BenchPlan(
    models=("vim_nano", "timm:test_vit"),
    rs=(0,),
    arms=("a=toy:full", "twin=toy:full", *(f"{name}=broken:{name}" for name in FAILING)),
    baseline="a",
    gpus="none",
    preset="quick",
    batch_size=4,
    images=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("own")
    (toy,) = re.findall(r"^```python toy.py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in toy.splitlines() if line]) <= 25
    (found / "toy.py").write_text(toy, encoding="utf-8")
    (found / "broken.py").write_text(BROKEN, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def mixed(folder: Path) -> tuple[RunRecord, list[str]]:
    """A run of all of them over one of the twins, and what it told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            PRESETS, "quick", replace(QUICK, block_seconds=0.02, warmup_seconds=0.0, warmup_limit=0.5, max_rejected=50)
        )
        patch.chdir(folder)
        heard = Heard()
        record = run(PLAN, folder / "mixed", controls(tell=heard, arms=PLAN.arms))
        write_all(record, folder / "mixed")
    return record, heard.notes


def test_one_table_has_our_model_timm_s_and_the_user_s(mixed: tuple[RunRecord, list[str]], folder: Path) -> None:
    record, notes = mixed
    assert record.status == "complete"
    arms = {arm.arm: arm for arm in record.arms}
    ran = ["a/r0", "vim_nano/r0", "timm:test_vit/r0", "twin/r0"]
    assert [name for name, arm in arms.items() if arm.speedup] == ran
    assert {arm.baseline for arm in arms.values()} == {"a/r0"}
    assert len({arms[name].rounds for name in ran}) == 1
    assert {name: arms[name].n_images for name in ran} == {**dict.fromkeys(ran, 8), "timm:test_vit/r0": 0}
    assert arms["a/r0"].weights == "own code"
    assert arms["vim_nano/r0"].delta_top1 is not None
    layer = 4 * 196 * 64**2 + 2 * 196**2 * 64 + 2 * 196 * 64 * 128  # of the toy: projections, both products of attention, MLP
    assert arms["a/r0"].gflops == {"counted": pytest.approx((196 * 64 * 4 + 4 * layer + 640) / 1e9)}
    assert f"{arms['timm:test_vit/r0'].gflops['counted']:.3f}" in (folder / "mixed" / "table.md").read_text(encoding="utf-8")
    assert arms["fails_later/r0"].gflops == {}  # no module
    assert arms["timm:test_vit/r0"].labels == ("SYNTHETIC_INPUT",)
    assert any("timm:test_vit has random weights, so it is timed only" in note for note in notes)
    assert re.search(r"\| timm:test_vit \| — \| — \| — \| — \|", (folder / "mixed" / "table.md").read_text(encoding="utf-8"))


def test_each_failure_is_one_line_and_the_rest_goes_on(mixed: tuple[RunRecord, list[str]]) -> None:
    record, notes = mixed
    arms = {arm.arm: arm for arm in record.arms}
    for name, words in FAILING.items():
        assert arms[f"{name}/r0"].verdict == "ARM_FAILED"
        assert words in arms[f"{name}/r0"].verdict_detail
        assert len([note for note in notes if note.startswith(f"{name}/r0 failed: {words}")]) == 1, notes


def test_an_arm_and_its_twin_are_equally_fast(mixed: tuple[RunRecord, list[str]]) -> None:
    (speedup,) = (arm.speedup for arm in mixed[0].arms if arm.arm == "twin/r0")
    assert speedup is not None
    assert speedup.low is not None
    assert speedup.high is not None
    # An interval of eight rounds misses in one case of twenty: of an A/A pair that far off it never does.
    assert 0.85 * speedup.low <= 1 <= 1.15 * speedup.high


def test_a_stored_run_imports_nothing_unasked(mixed: tuple[RunRecord, list[str]], folder: Path) -> None:
    (folder / "imported").unlink()
    for done in commands(["resume", "mixed"], ["rerun", "mixed", "--arm", "a=toy:full", "--out", "again"], cwd=folder):
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert "--arm twin=toy:full --arm raises=broken:raises" in done.err
    assert not (folder / "imported").exists()
    assert not (folder / "again").exists()


def test_bad_names_are_one_line_each(folder: Path) -> None:
    run = "--gpus none --quick --dry-run"
    lines = {
        f"{run} --model timm:test_vti": "did you mean test_vit",
        f"{run} --model timm:test_vit.nonsense": "choose r160_in1k",
        f"{run} --model timm:test_vit --img-size 96": "takes images of its own size",
        f"{run} --arm nonsense": "--arm is NAME=MODULE:FUNCTION",
        f"{run} --arm vim_nano=toy:full": "another model has the name vim_nano",
        "--device sim --gpus v100 --model timm:test_vit": "knows only what our models cost",
        f"{run} --model vim_nano,timm:test_vit --data .": "vim_nano 10, timm:test_vit 1000",
        "--gpus none --quick --arm b=broken:built --arm a=toy:absent --out no": "toy:absent cannot be imported (AttributeError",
        "--gpus none --quick --arm a=broken:takes_one --out no": "takes none, or (device, dtype)",
        "fleet --engine local --kinds cpu --arm a=toy:full --out f": "join the runs with `rmeeto-bench merge`",
    }
    for done, (line, words) in zip(commands(*(line.split() for line in lines), cwd=folder), lines.items(), strict=True):
        assert done.code == 2, (line, done.err)
        assert words in done.err, (line, done.err)
        said = [text for text in done.err.splitlines() if not text.startswith("usage") and "building" not in text]
        assert len(said) == 1, (line, done.err)
    assert not (folder / "no").exists()
    assert not (folder / "built").exists()  # what cannot be imported is refused before anything is made


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "vit_base_patch16_siglip_224"])
@pytest.mark.parametrize("size", [(300, 200), (121, 500)])
def test_images_are_prepared_as_timm_prepares_them(name: str, size: tuple[int, int]) -> None:
    found = timm_arms.settings("test_vit") if name not in timm.list_models() else timm.get_pretrained_cfg(name)
    settings = timm_arms.preprocessing(found)
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8))
    ours = declared(settings)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=found.to_dict()))
    assert torch.allclose(ours.normalisation(ours(image)), transform(image), atol=1e-6)


def test_weights_in_a_folder_are_loaded_as_timm_loads_them(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_vit").eval()
    save_file(model.state_dict(), tmp_path / "test_vit_r0.safetensors")
    resolved = resolve_timm(BenchPlan(models=("timm:test_vit",), checkpoints=str(tmp_path)), "timm:test_vit")
    arm = build_other(resolved.cells[0], Setting(CpuDevice(), "fp32", 2, "auto"), resolved)
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(arm.forward(images), model(images))
    assert arm.is_evaluated
    assert arm.weights == "pretrained"


def test_a_guard_keeps_the_first_failure_and_calls_no_more() -> None:
    calls = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images[: 4 - len(calls) // 3, :2]

    guarded = Guarded(forward, 2)
    for _ in range(5):
        assert guarded(torch.ones(4, 3)).shape == (4, 2)
    assert (len(calls), guarded.failure) == (3, "it returned logits [3, 2], not [4, 2]")
    with pytest.raises(ArmError, match="not a tensor of logits"):
        Guarded(lambda images: images.tolist(), None)(torch.ones(4, 3))  # type: ignore[arg-type, return-value]


def test_callables_from_python_make_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(QUICK, block_seconds=0.01, warmup_seconds=0.0, warmup_limit=0.1, max_rounds=6)
    monkeypatch.setitem(PRESETS, "quick", short)
    monkeypatch.chdir(tmp_path)
    small, large = torch.rand(64, 64), torch.rand(256, 256)

    def absent() -> None:
        raise KeyError("weights")

    steps: dict[str, Callable[[], Any] | str] = {"small": lambda: small @ small, "large": lambda: large @ large, "no": absent}
    timed = rb.measure(steps, "run", baseline="large", batch_size=2)
    table = timed.table().set_index("arm")
    assert list(table.index) == ["large/r0", "small/r0", "no/r0"]
    assert table.loc["small/r0", "speedup"] > 2
    assert list(table["verdict"]) == ["EXPLORATORY", "EXPLORATORY", "ARM_FAILED"]
    assert "KeyError: 'weights'" in table.loc["no/r0", "verdict_detail"]
    assert rb.load_run("run").record == timed.record
    assert (tmp_path / "run" / "speed_accuracy.png").is_file()
    with pytest.raises(UsageError, match="choose quick, sustained, or give MODULE:FUNCTION"):
        rb.measure(steps, "other", preset="default")
    with pytest.raises(UsageError, match="cannot share rounds"):
        rb.measure({**steps, "named": "toy:full"}, "other")
    with pytest.raises(UsageError, match="by rb.measure; measure again there"):
        rb.resume("run")
    with pytest.raises(UsageError, match="not imported unasked"):
        rb.run(BenchPlan(models=(), arms=("a=toy:full",), gpus="none"), "other")


@pytest.mark.slow
def test_names_from_python_are_timed_in_fresh_processes_by_the_default_preset(folder: Path, tmp_path: Path) -> None:
    """The line of the page, in a process of its own; the preset is as it ships but for its seconds."""
    (line,) = re.findall(r'rb\.measure\(\{"mine": "toy:half".*?\)', PAGE.read_text(encoding="utf-8"))
    brief = "block_seconds=0.05, warmup_seconds=0.1, warmup_limit=0.5, sessions=3"
    lines = f'\nPRESETS["default"] = __import__("dataclasses").replace(DEFAULT, {brief})\nCPU_BLIND = (0.0, 0.0)\n'
    program(tmp_path / "program", {"measure/protocol.py": lines})
    script = f"import rmeeto_bench as rb\nrun = {line}\nprint(run.folder, *run.table()['sessions'], *run.table()['arm'])"
    variables = {**os.environ, **PLAIN, "PYTHONPATH": str(tmp_path / "program")}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    place, *rest = done.stdout.split()
    assert rest == ["3", "3", "mine/r0", "theirs/r0"]
    record = rb.load_run(folder / place).record
    assert not {"EXPLORATORY", "ARM_FAILED"} & {arm.verdict for arm in record.arms}
    assert record.arms[1].speedup is not None
    assert (folder / place / "report.html").is_file()


def test_a_batch_in_place_of_the_folder_is_told() -> None:
    with pytest.raises(UsageError, match="the second argument is the folder of the run, not a Tensor"):
        rb.measure({"mine": lambda: None}, torch.zeros(2))  # type: ignore[arg-type]
