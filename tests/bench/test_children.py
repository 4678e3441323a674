"""What a child process must never do: outlive the command, read its input, import from its folder, or keep it waiting.

The commands run in fresh processes, on image files as people have them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.data.layouts import fashion_mnist

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="needs /proc")
IMAGES = 100
STAND_IN = "import os, pathlib, time\npathlib.Path(os.environ['PIDS'], str(os.getpid())).touch()\ntime.sleep(600)\n"
# Docker's default is 64 MB; this is too little for any shared memory at all.
SMALL_SHM = 'mount -t tmpfs -o size=16k tmpfs /dev/shm && exec "$@"'


def command(*words: str) -> list[str]:
    """The command as it is installed: unlike `python -m`, it does not look into the current folder."""
    installed = Path(sys.executable).with_name("rmeeto-bench")
    return [str(installed), *words] if installed.exists() else [sys.executable, "-P", "-m", "rmeeto_bench", *words]


def wait_for(what: Callable[[], Any], seconds: float = 600.0) -> Any:
    """What comes out once it is not empty."""
    deadline = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def running(pid: int) -> bool:
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for task in (PROC / str(pid) / "task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def words_of(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, named as the classes are called, whose alphabet is not their order."""
    root, data = tmp_path_factory.mktemp("images") / "val", fashion_mnist.load("test")
    for i in range(IMAGES):
        folder = root / fashion_mnist.CLASSES[int(data.labels[i])].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.pixels[i, 0].numpy()).save(folder / f"{i:04d}.png")
    return root


@pytest.fixture(scope="module")
def evaluated(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `eval` says of the images."""
    out = tmp_path_factory.mktemp("eval")
    words = command("eval", "--gpus", "none", "--r", "0", "--data", str(images), "--workers", "0", "--out", str(out / "run"))
    done = subprocess.run([*words, "--json", "-"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (arm,) = json.loads(done.stdout)["arms"]
    assert arm["n_images"] == IMAGES
    return {**arm, "folder": out / "run"}


def test_a_run_on_image_files_ends_and_sees_what_eval_sees(images: Path, evaluated: dict[str, Any], tmp_path: Path) -> None:
    """With readers in a place where everything is against them: hardly any /dev/shm, a long TMPDIR, and modules in the current
    folder that are named like ours and the standard library's."""
    words = command("--gpus", "none", "--quick", "--r", "0", "--data", str(images), "--workers", "2")
    words += ["--out", str(tmp_path / "run")]
    temporary = tmp_path / ("d" * 110)
    temporary.mkdir()
    variables = {**os.environ, "TMPDIR": str(temporary)}
    for name in ("queue.py", "rmeeto_bench.py", "multiprocessing.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current folder')")
    if os.getuid() == 0 and shutil.which("unshare") and not subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        words = ["unshare", "-m", "sh", "-c", SMALL_SHM, "sh", *words]
    done = subprocess.run(
        words, env=variables, cwd=tmp_path, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    (arm,) = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["arms"]
    assert (arm["n_images"], arm["top1"]["value"]) == (IMAGES, evaluated["top1"]["value"])
    with Store.open(tmp_path / "run") as ours, Store.open(evaluated["folder"]) as theirs:
        first, second = (Predictions(store, "cpu").results(["vim_nano/r0"]) for store in (ours, theirs))
    assert first.best["vim_nano/r0"].tolist() == second.best["vim_nano/r0"].tolist()


def test_a_reader_that_is_killed_ends_the_evaluation_in_one_line_and_it_goes_on(images: Path, tmp_path: Path) -> None:
    words = command("eval", "--gpus", "none", "--r", "0,5,10,11,13,15,20", "--data", str(images), "--batch-size", "1")
    words += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen([*words, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def readers() -> list[int]:
        workers = [pid for pid in children(process.pid) if "-m rmeeto_bench.bench.session.worker" in words_of(pid)]
        return [pid for worker in workers for pid in children(worker) if words_of(pid) == words_of(worker)]

    assert wait_for(lambda: len(readers()) == 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    os.kill(readers()[0], signal.SIGKILL)
    err = process.communicate(timeout=600)[1]
    assert process.returncode in (5, 6)  # what was evaluated is kept, if anything was
    assert "the accuracy pass: a process that decodes images was ended by SIGKILL" in err.splitlines()[-2]
    assert "continue with: rmeeto-bench resume" in err.splitlines()[-1]
    done = subprocess.run([*words, "--resume", "--workers", "0", "--json", "-"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["arms"][0]["n_images"] == IMAGES


def test_a_killed_calibration_leaves_no_program(tmp_path: Path) -> None:
    words = command("calibrate", "--gpus", "none", "--processes", "4", "--out", str(tmp_path))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sessions() -> list[int]:
        return [pid for pid in children(process.pid) if "-m rmeeto_bench.bench.session.worker" in words_of(pid)]

    started = wait_for(sessions)  # one, or both of a pair
    process.kill()
    process.wait()
    assert wait_for(lambda: not any(running(session) for session in started), 120)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("together", [False, True])
def test_a_gate_that_is_ended_leaves_no_program(number: int, together: bool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    for folder in (pids, tmp_path / "rmeeto_bench" / "measure"):
        folder.mkdir(parents=True)
    (tmp_path / "rmeeto_bench" / "__init__.py").touch()
    (tmp_path / "rmeeto_bench" / "__main__.py").write_text(STAND_IN)
    if together:
        (tmp_path / "rmeeto_bench" / "measure" / "turns.py").touch()
    side = str(tmp_path)
    process = subprocess.Popen(
        command("gate", "--base", side, "--head", side, "--gpus", "none"),
        env={**os.environ, "PIDS": str(pids)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    sides = wait_for(lambda: found if len(found := list(pids.iterdir())) == 1 + together else [])
    assert len(sides) == 1 + together
    process.send_signal(number)
    err = process.communicate(timeout=600)[1]
    assert wait_for(lambda: not any(running(int(path.name)) for path in sides), 120)
    if number == signal.SIGTERM:
        assert (process.returncode, err.splitlines()[-1]) == (130, "rmeeto-bench: stopped")
