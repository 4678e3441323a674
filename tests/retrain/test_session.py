"""Sessions and the command: files, provenance, resuming, interruption, a full disk, damaged states, mismatched weights."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sets import tiny_recipe, write_fashion_mnist, write_folders

import rmeeto_bench as rb
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import CheckpointError, UnavailableError, UsageError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.reduction.config import Ablation
from rmeeto_bench.report.training import minutes_table, read_log, read_logs
from rmeeto_bench.retrain import state as states
from rmeeto_bench.retrain.distributed import World, choose_device
from rmeeto_bench.retrain.presets import preset
from rmeeto_bench.retrain.session import Files, Training, build, finished, initial_weights, train_one

CPU = World(torch.device("cpu"))
QUICK = ("--epochs", "1", "--batch-size", "16", "--set", "img_size=14", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("set"))


def session(data: Path, out: Path, **changes: Any) -> Training:
    return Training("vim_nano", tiny_recipe(**changes), data, None, Files(out))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_session_writes_weights_that_say_how_they_were_made_and_go_on_at_another_size(data: Path, tmp_path: Path) -> None:
    low = session(data, tmp_path / "low", fraction=0.5, optimisation__batch_size=8)
    first = train_one(low, 0, CPU)
    recipe = tiny_recipe(img_size=None, schedule__epochs=0.2, ema_decay=0.9)
    merging = rb.ReductionConfig(prune=True, ablation=Ablation(shuffle=0.3))
    full = replace(low, recipe=recipe, init=str(first.checkpoint), files=Files(tmp_path / "out", half=True), reduction=merging)
    second = train_one(full, 5, CPU)
    provenance = read_checkpoint(second.checkpoint).provenance
    assert (provenance.trained_r, provenance.metadata["model"], provenance.metadata["weights"]) == (5, "vim_nano", "ema")
    assert provenance.reduction == replace(merging, r=5)
    log = lines(second.log)
    assert lines(first.log)[0]["training_images"] == 48
    assert (log[0]["recipe"]["name"], log[0]["training_images"], log[-1]["n_images"]) == ("nano_retrain", 96, 40)
    assert log[-1]["top1"] == pytest.approx(second.top1)
    rb.load_checkpoint(rb.create_model("vim_nano", r=5), second.checkpoint)
    assert not list(tmp_path.rglob("*.pt"))


def test_retraining_starts_from_the_shipped_baseline_unless_told_otherwise(data: Path, tmp_path: Path) -> None:
    plain = replace(session(data, tmp_path), recipe=preset("nano"))
    shipped = initial_weights(plain)
    assert shipped is not None
    assert shipped.endswith("vim_nano_r0.safetensors")
    assert initial_weights(replace(plain, init="none")) is None
    assert initial_weights(replace(plain, recipe=preset("nano_low"))) is None
    assert initial_weights(replace(plain, init="bundled", recipe=preset("nano_low"))) == shipped
    assert initial_weights(replace(plain, model="vim_tiny")) == "vim_tiny"
    with pytest.raises(UsageError, match="--init"):
        initial_weights(replace(plain, model="vim_tiny", init="bundled"))


def test_a_head_for_other_classes_starts_anew_but_other_shapes_are_an_error(data: Path, tmp_path: Path) -> None:
    plain = replace(session(data, tmp_path), recipe=preset("nano"))
    model, original = build(plain, 0, 3), rb.create_model("vim_nano", r=0, checkpoint="bundled")
    assert model.head.weight.shape[0] == 3
    assert torch.equal(model.layers[3].mixer.A_log, original.layers[3].mixer.A_log)  # type: ignore[union-attr]
    taught = replace(plain, recipe=replace(plain.recipe, teacher=replace(plain.recipe.teacher, source="self")))
    with pytest.raises(UsageError, match="cannot teach"):
        build(taught, 0, 3)
    with pytest.raises(CheckpointError, match="width 32"):
        build(replace(plain, model="vim_tiny", init=initial_weights(plain)), 0, 10)


def test_the_command_trains_several_ratios_resumes_and_draws(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["retrain", "--preset", "nano", "--data", str(data), "--ratios", "0.14,0.54", *QUICK, "--fraction", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("done") == 2
    assert "images/s" in shown.err
    assert "data wait" in shown.err
    assert {path.name for path in tmp_path.iterdir()} == {
        "vim_nano_r5.safetensors", "vim_nano_r5.jsonl", "vim_nano_r20.safetensors", "vim_nano_r20.jsonl",
        "curves.png", "minutes.md",
    }  # fmt: skip
    assert main([*words, "--out", str(tmp_path), "--resume"]) == 0
    assert capsys.readouterr().out.count("already done") == 2
    table = (tmp_path / "minutes.md").read_text(encoding="utf-8")
    assert "| vim_nano_r20 | 20 | cpu | 1 | 1.00 |" in table


def test_stopped_while_it_is_evaluated_the_command_keeps_the_trained_state(tmp_path: Path) -> None:
    data, log = write_fashion_mnist(tmp_path / "set", test=1000), tmp_path / "out" / "vim_nano_r5.jsonl"
    words = ["retrain", "--preset", "nano", "--data", str(data), "--r", "5", "--epochs", "1", "--batch-size", "16"]
    words += ["--fraction", "1", "--device", "cpu", "--log-every", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rmeeto_bench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any(line.startswith("  step 6/6 ") for line in process.stderr)  # the last line before the evaluation
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "its state is saved; continue with --resume" in out
    assert (lines(log)[-1]["interrupted"], lines(log)[-1]["top1"]) == (True, None)
    assert not log.with_suffix(".safetensors").exists()
    assert list(log.with_suffix(".state").glob("step_*.pt"))
    assert "| - |" in (tmp_path / "out" / "minutes.md").read_text(encoding="utf-8")
    assert main([*words, "--resume"]) == 0
    assert lines(log)[-1]["n_images"] == 1000
    assert [line["step"] for line in lines(log)[1:-1]] == [1, 2, 3, 4, 5, 6]  # nothing was trained again
    assert log.with_suffix(".safetensors").exists()


def test_interrupted_the_command_exits_130_and_resumes_to_the_same_curve(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [sys.executable, "-m", "rmeeto_bench", "retrain", "--preset", "nano", "--data", str(data), "--r", "5", *QUICK]
    words += ["--epochs", "4", "--batch-size", "8", "--fraction", "1", "--save-every", "4", "--log-every", "5"]
    process = subprocess.Popen([*words, "--out", str(tmp_path / "cut")], stderr=subprocess.PIPE, text=True)
    state = tmp_path / "cut" / "vim_nano_r5.state"
    deadline = time.monotonic() + 120
    while not list(state.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert main([*words[3:], "--out", str(tmp_path / "cut"), "--resume"]) == 6  # the same files at the same time
    assert f"(process {process.pid} on " in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert 1 <= len(list(state.glob("step_*.pt"))) <= 2
    assert lines(tmp_path / "cut" / "vim_nano_r5.jsonl")[-1]["interrupted"]
    assert main([*words[3:], "--out", str(tmp_path / "cut"), "--resume"]) == 0
    assert main([*words[3:], "--out", str(tmp_path / "whole")]) == 0
    curves = [[line["loss"] for line in lines(tmp_path / part / "vim_nano_r5.jsonl")[1:-1]] for part in ("cut", "whole")]
    assert len(curves[0]) == 10
    assert curves[0] == curves[1]
    assert not state.exists()


def test_states_are_atomic_two_are_kept_and_damage_falls_back(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        states.save_state(tmp_path, step, {"step": step, "model": {"w": torch.ones(3)}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002.pt", "step_00000003.pt"]
    newest = tmp_path / "step_00000003.pt"
    newest.write_bytes(newest.read_bytes()[:200])
    loaded = states.load_state(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 2
    (tmp_path / "step_00000002.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="start again"):
        states.load_state(tmp_path)
    states.remove_states(tmp_path)
    assert states.load_state(tmp_path) is None


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"step": Path("/")}, tmp_path / "step_00000001.pt")  # an object of a class is code to an unpickler
    with pytest.raises(CheckpointError):
        states.load_state(tmp_path)


def test_a_full_disk_is_one_line_and_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states.save_state(tmp_path, 1, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states.os, "fsync", full)
    with pytest.raises(UnavailableError, match="free some disk space.*--resume") as caught:
        states.save_state(tmp_path, 2, {"step": 2})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    assert states.load_state(tmp_path) == {"step": 1}


def test_ctrl_c_in_a_terminal_reaches_the_decoding_processes_and_still_saves_the_state(tmp_path: Path) -> None:
    words = ["-r", "5", "--init", "none", "--workers", "2", "--save-every", "1", "--epochs", "50"]
    command = [sys.executable, "-m", "rmeeto_bench", "retrain", "--preset", "nano", "--fraction", "1", "--device", "cpu"]
    folders = write_folders(tmp_path / "images", per_class=40)
    process = subprocess.Popen(
        [*command, "--data", str(folders), "--out", str(tmp_path / "out"), "--batch-size", "4", "--set", "img_size=14", *words],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    states, deadline = tmp_path / "out" / "vim_nano_r5.state", time.monotonic() + 120
    while not list(states.glob("step_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes of the command
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert list(states.glob("step_*.pt"))
    assert "Traceback" not in said
    assert said.count("finishing this step") == 1  # and not once more from each of them


def test_any_setting_of_the_merging_can_be_trained_with_and_names_the_files(data: Path, tmp_path: Path) -> None:
    words = ["retrain", "--preset", "nano", "--data", str(data), "--out", str(tmp_path), *QUICK, "-r", "5", "--fraction", "0.5"]
    assert main([*words, "--unordered", "--reduce", "distance=l1", "--reduce", "ablation.shuffle=0.3"]) == 0
    (log,) = tmp_path.glob("*.jsonl")
    assert log.stem == "vim_nano_r5-unordered-distance-l1-shuffle-0_3"
    known = lines(log)[0]["reduction"]
    assert (known["ordered"], known["distance"], known["ablation"]["shuffle"], known["mode"]) == (False, "l1", 0.3, "sum")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--preset", "secret"), 2, "upstream_exact"),
        (("--set", "augmentation.mixup"), 2, "FIELD=VALUE"),
        (("--set", "augmentation.mix=1"), 2, "cutmix"),
        (("--reduce", "distance=l3"), 2, "cosine, l1, l2"),
        (("--reduce", "distanse=l1"), 2, "there is no distanse"),
        (("--reduce", "r=5"), 2, "-r or --ratios"),
        (("--save-every", "0"), 2, "--save-every"),
        (("--data", "nowhere"), 2, "no folder"),
        (("--device", "tpu"), 2, "auto, cpu or cuda"),
        (("--lr", "1e9", "--set", "optimisation.clip_norm=none"), 5, "lower the learning rate"),
    ],
)
def test_mistakes_end_in_one_line(
    words: tuple[str, ...], code: int, says: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    standard = ["retrain", "--preset", "nano", "--data", str(data), "--out", str(tmp_path), *QUICK, "--fraction", "1"]
    assert main([*standard, *words]) == code
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rmeeto-bench:")]
    assert len(message) == 1
    assert says in message[0]


def test_show_prints_the_recipe_and_trains_nothing(capsys: pytest.CaptureFixture) -> None:
    assert main(["retrain", "--preset", "upstream_exact", "--epochs", "3", "--teacher", "none", "--show"]) == 0
    name, *fields = capsys.readouterr().out.split()
    assert name == "upstream_exact"
    assert {"schedule.epochs=3.0", "optimisation.upstream_accumulation=True", "teacher.source=none"} <= set(fields)
    again = [word for field in fields for word in ("--set", field)]
    assert main(["retrain", "--preset", "nano", *again, "--show"]) == 0
    assert capsys.readouterr().out.split()[1:] == fields


def test_image_folders_train_end_to_end(tmp_path: Path) -> None:
    recipe = tiny_recipe(img_size=28, optimisation__batch_size=4, augmentation__crop="resized", augmentation__mixup=0.5)
    folders = Training("vim_nano", recipe, write_folders(tmp_path / "set"), "none", Files(tmp_path / "out"), workers=1)
    result = train_one(folders, 20, CPU)
    assert 0 <= result.top1 <= 100
    assert finished(folders, 20) == replace(result, top1=round(result.top1, 2))  # as the log has it
    with pytest.raises(UsageError, match="is another training .*recipe.optimisation.batch_size 4, not 16"):
        finished(replace(folders, recipe=tiny_recipe()), 20)


def test_the_minutes_stand_beside_the_papers(tmp_path: Path) -> None:
    head = {"model": "vim_small", "reduction": {"r": 11}, "recipe": {}, "device": "GPU", "processes": 8}
    steps = [{"epoch": e, "loss": 1.0, "images_per_second": 100.0 * e, "seconds": 60.0 * e} for e in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in (head, *steps, {"top1": 79.0, "seconds": 120.0}))
    write_atomic(tmp_path / "vim_small_r11.jsonl", text)
    assert read_log(tmp_path / "vim_small_r11.jsonl").images_per_second == pytest.approx(150)
    table = minutes_table(read_logs(tmp_path))
    assert "| vim_small_r11 | 11 | GPU | 8 | 2.00 | 2.0 | 150 | 79.00 |" in table
    assert "| Vim-S | 3 | 1x8xH100 | 25.2 |" in table
    assert "| Vim-S | 9 | 3 epochs | 107 |" in table
    assert "Vim-B" not in table


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UnavailableError, match="--device cpu"):
        choose_device("cuda")
