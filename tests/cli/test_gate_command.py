"""The gate from the command line: refs, folders, wheels and stored runs, with a stand-in program; for real in tests/doors."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sample_runs import cpu_run

import rmeeto_bench
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.commands import gate
from rmeeto_bench.cli.main import main
from rmeeto_bench.compare import programs as sides
from rmeeto_bench.compare.programs import resolve
from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import cache_folder
from rmeeto_bench.records.run import Block, save, to_json

# A program that takes no time: it answers `run` with a manifest at the speed that its own source states.
STAND_IN = """
import json, os, pathlib, random, subprocess, sys
here = pathlib.Path(__file__).parent
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if (here / "broken").exists():
    sys.exit("this program is broken")
record = json.loads((here / "manifest.json").read_text())
factor = float((here / "speed.txt").read_text()) * random.uniform(0.999, 1.001)
for arm in record["arms"]:
    arm["images_per_second"] = {name: factor * value for name, value in arm["images_per_second"].items()}
record["run_id"] = str(out)
if (here / "simulated").exists():
    record["devices"][0]["kind"] = "sim"
git = subprocess.run(["git", "-C", str(here), "describe", "--always", "--abbrev=12"], capture_output=True, text=True)
record["environment"]["git_commit"] = git.stdout.strip() or None
record["argv"] = sys.argv[1:]
out.mkdir(parents=True)
(out / "manifest.json").write_text(json.dumps(record))
"""


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def program(folder: Path, speed: float) -> Path:
    package = folder / "rmeeto_bench"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(STAND_IN)
    (package / "manifest.json").write_text(to_json(cpu_run()))
    (package / "speed.txt").write_text(str(speed))
    return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a base, an identical head and a slower one; it is the current folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("GITHUB_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for tag, speed in (("base", 1.0), ("slower", 0.95), ("same", 1.0)):
        program(folder, speed)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--allow-empty", "--message", tag)
        git(folder, "tag", tag)
    monkeypatch.chdir(folder)
    return folder


WORDS = ["gate", "--base", "base", "--gpus", "none"]


def test_refs_are_measured_by_turns_and_judged(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = tmp_path / "gate.xml"
    assert main([*WORDS, "--head", "slower", "--junit", str(report), "--out", str(tmp_path / "runs")]) == 3
    captured = capsys.readouterr()
    assert "FAIL: images/s of" in captured.out
    first, *lines = captured.err.splitlines()
    assert first.startswith("top-1: a margin of 0.2 points needs 21,410 images if 1 % of them change")
    assert [line.split(": ")[1] for line in lines] == 3 * ["base, head", "head, base"]
    argv = [json.loads((tmp_path / "runs" / name / "manifest.json").read_text())["argv"] for name in ("head-1", "head-2")]
    assert [words[words.index("--images") + 1] for words in argv] == ["21410", "32"]
    assert all("--quick" in words for words in argv)
    assert ElementTree.parse(report).getroot().get("failures") != "0"
    assert len(list((tmp_path / "runs").iterdir())) == 12
    assert main([*WORDS, "--head", "same"]) == 0
    assert "PASS" in capsys.readouterr().out


def test_worktrees_are_kept_and_used_again(repository: Path) -> None:
    first = resolve("base", repository, cache_folder("gate"))
    assert first.commit == git(repository, "rev-parse", "base")
    marker = first.path / "marker"
    marker.touch()
    assert resolve("base", repository, cache_folder("gate")) == first
    assert marker.exists()
    shutil.rmtree(first.path)  # a cache that was cleaned: git still remembers the worktree
    assert (resolve("base", repository, cache_folder("gate")).path / "rmeeto_bench").is_dir()


def test_other_dependencies_get_an_environment_that_is_kept(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = program(tmp_path / "other", 1.0)
    (other / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=99"]\n', encoding="utf-8")
    commands: list[list[str]] = []

    def call(command: list[str | Path], what: str) -> str:
        commands.append([str(word) for word in command])
        if "venv" in commands[-1]:
            Path(commands[-1][-1]).mkdir(parents=True)
        return ""

    monkeypatch.setattr(sides, "_call", call)
    side = resolve(str(other), repository, cache_folder("gate"))
    assert str(side.python) != sys.executable
    assert [words[1:3] for words in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1][-1] == "torch>=99"
    assert resolve(str(other), repository, cache_folder("gate")) == side
    assert len(commands) == 2, "made once"
    own = Path(rmeeto_bench.__file__).parents[1] / "pyproject.toml"
    if own.is_file():
        shutil.copy(own, other / "pyproject.toml")
        assert str(resolve(str(other), repository, cache_folder("gate")).python) == sys.executable


def test_a_folder_and_a_wheel_are_sides_too(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = program(tmp_path / "elsewhere", 0.95)
    wheel = tmp_path / "rmeeto_bench-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted((source / "rmeeto_bench").iterdir()):
            archive.write(path, f"rmeeto_bench/{path.name}")
        information = "rmeeto_bench-0.0.1.dist-info"
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: rmeeto-bench\nVersion: 0.0.1\n")
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    assert main([*WORDS, "--head", str(source)]) == 3
    assert main([*WORDS, "--head", str(wheel)]) == 3
    assert str(wheel) in capsys.readouterr().out.replace("\n", "")


def test_what_is_no_side_is_said(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"no commit .* \(fetch-depth: 0\)"):
        resolve("no-such-branch", repository, tmp_path)
    assert main(["gate", "--base", "missing.whl"]) == 2
    assert "build it first" in capsys.readouterr().err
    assert main([*WORDS, "--gpus", "all"]) == 2
    assert "one device" in capsys.readouterr().err


@pytest.mark.parametrize(("marker", "says"), [("broken", "this program is broken"), ("simulated", "simulated device cannot")])
def test_a_side_that_cannot_be_measured_is_refused(
    marker: str, says: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    head = program(tmp_path / "head", 1.0)
    (head / "rmeeto_bench" / marker).touch()
    assert main([*WORDS, "--head", str(head)]) == 5
    assert says in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_refused(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "old").touch()
    assert main([*WORDS, "--head", "same", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def stored_run(folder: Path, speed: float, sessions: int = 3) -> Path:
    run = cpu_run()
    save(run, folder)
    rng = np.random.default_rng(int(1000 * speed))
    with Store.create(folder) as store:
        for _ in range(sessions):
            session = store.begin_session("cpu", "vim_nano", "timing", {})
            for number in range(6):
                for place, arm in enumerate(run.arms):
                    seconds = 32 / (speed * arm.images_per_second.value * rng.normal(1, 0.001))
                    store.add_block(Block("cpu", session, number, place, arm.arm, 1, 32, seconds, seconds))
            store.end_session("cpu", session, "done", {})
    return folder


def test_stored_runs_only_advise(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fast, slow = stored_run(tmp_path / "fast", 1.0), stored_run(tmp_path / "slow", 0.9)
    assert main(["gate", "--base", str(fast), "--head", str(slow)]) == 4
    assert "advisory" in capsys.readouterr().out
    assert main(["gate", "--base", str(fast), "--head", str(stored_run(tmp_path / "same", 1.0))]) == 0
    assert main(["gate", "--base", str(fast), "--head", "slower", "--gpus", "none"]) == 4
    assert main(["gate", "--base", str(slow), "--head", "same", "--gpus", "none"]) == 0


def test_what_is_measured_is_passed_on_to_the_processes_of_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "labels.txt").touch()
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser)
    given = ["--gpus", "none", "--data", "val", "--labels", "labels.txt", "--on-error", "skip", "--batch-size", "8"]
    words = gate.run_flags(parser.parse_args(["--base", "main", *given]))
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    assert pairs["--data"] == str(tmp_path / "val")
    assert pairs["--labels"] == str(tmp_path / "labels.txt")
    assert (pairs["--on-error"], pairs["--batch-size"], pairs["--ratios"]) == ("skip", "8", "0,0.31,0.54")
    assert words[-1] == "--quick"
    assert "--on-error" not in gate.run_flags(parser.parse_args(["--base", "main", "--gpus", "none"]))  # old bases lack it
