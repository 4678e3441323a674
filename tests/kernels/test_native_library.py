"""Where the compiled kernels come from: never from a file that others could have written, always for this processor."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.kernels.native import library as loader
from rmeeto_bench.kernels.native.compiling import file_name, intact, write_digest
from rmeeto_bench.kernels.native.trust import distrust

CHECK = """
import torch
from rmeeto_bench.kernels.native import library
from rmeeto_bench.kernels.registry import Operands, select
kernels = select("auto", Operands("cpu", 16, 4))
print(kernels.name, library.describe(), dict(kernels.refused), sep=" | ")
"""


def fresh_process(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1", **variables}
    (home / "tmp").mkdir(exist_ok=True)
    line = [sys.executable, "-c", CHECK]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def cached() -> Path:
    """The library that this machine uses."""
    folder = next(iter(loader._folders()))
    isa = loader.library().isa
    return folder / file_name(isa)


def keep(cached: Path, home: Path) -> Path:
    """The library in the cache of another home, as a run there would have left it."""
    folder = home / ".cache" / "rmeeto-bench" / "native"
    folder.mkdir(parents=True, mode=0o700)
    path = folder / cached.name
    path.write_bytes(cached.read_bytes())
    path.chmod(0o600)
    write_digest(path)
    return path


@pytest.mark.slow
def test_a_truncated_or_planted_library_is_built_again(cached: Path, tmp_path: Path) -> None:
    path = keep(cached, tmp_path)
    path.write_bytes(path.read_bytes()[:20_000])  # loading it would kill the process with SIGBUS
    done = fresh_process(tmp_path)
    assert done.stdout.startswith("native")
    assert ", built |" in done.stdout
    assert str(tmp_path) not in done.stdout, "records hold no path of the machine"
    assert intact(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_good_library_is_used_without_a_compiler_and_a_folder_of_others_is_not(cached: Path, tmp_path: Path) -> None:
    keep(cached, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert fresh_process(tmp_path, PATH=str(empty)).stdout.startswith("native")
    tmp_path.chmod(0o777)  # now others could replace what is in it
    done = fresh_process(tmp_path, PATH=str(empty))
    assert done.stdout.startswith("stepwise")
    assert "others may write" in done.stdout
    assert "g++" in done.stdout


def test_a_nonsense_or_broken_compiler_is_named_and_the_next_best_path_taken(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    broken = tools / "g++"
    broken.write_text("#!/bin/sh\necho cc1plus: out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    done = fresh_process(tmp_path, PATH=str(tools), CXX="no such compiler")
    assert done.stdout.startswith("stepwise")
    assert "CXX=no such compiler is no program" in done.stdout
    assert "out of order" in done.stdout


def test_what_others_may_write_is_distrusted(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    library = folder / "a.so"
    library.write_bytes(b"")
    library.chmod(0o600)
    assert distrust(library) is None
    library.chmod(0o602)
    assert "others may write" in str(distrust(library))
    library.chmod(0o600)
    folder.chmod(0o707)
    assert "others may write" in str(distrust(library))
    folder.chmod(0o1707)  # sticky: others may add files, not replace this one
    assert distrust(library) is None
    link = tmp_path / "link.so"
    link.symlink_to(library)
    assert "is a link" in str(distrust(link))
    if os.getuid() == 0:
        folder.chmod(0o700)
        os.chown(library, 12345, -1)
        assert "another user" in str(distrust(library))


def test_a_processor_without_avx2_gets_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, best in (("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", "sse2")):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda value=capability: value)
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        assert loader._processor_sets()[0] == best


def test_without_a_folder_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_folders", lambda: iter([Path("/proc/nowhere")]))
    with pytest.raises(UnavailableError, match="cannot be used") as caught:
        loader.find([loader.library().isa])
    assert "\n" not in str(caught.value)


FOREIGN = b"\x7fELF\2\1\1" + bytes(9) + (3).to_bytes(2, "little") + (8).to_bytes(2, "little") + bytes(100)  # for MIPS


def fake_compiler(folder: Path, name: str, script: str) -> list[str]:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def test_every_bad_compiler_and_folder_costs_one_line_and_takes_the_next_best_path(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    other.mkdir(mode=0o700)
    isa = loader.library().isa
    (tmp_path / "foreign.so").write_bytes(FOREIGN)
    find_out = 'while [ "$1" != -o ]; do shift; done; cp '
    compilers = {
        "old": fake_compiler(tmp_path, "old", "echo \"error: unrecognized option '-std=c++17'\" >&2; exit 1"),
        "foreign": fake_compiler(tmp_path, "foreign", f'{find_out} {tmp_path}/foreign.so "$2"'),
        "silent": fake_compiler(tmp_path, "silent", "exit 0"),
        "good": fake_compiler(tmp_path, "good", f'{find_out} {cached} "$2"'),
    }
    monkeypatch.setattr(loader, "_folders", lambda: iter([own, other]))
    reasons = {"old": "unrecognized option", "foreign": "another kind of processor", "silent": "it wrote no library"}
    for name, reason in reasons.items():  # alone: no kernels, and why
        monkeypatch.setattr(loader, "compilers", lambda name=name: ([compilers[name]], []))
        with pytest.raises(UnavailableError, match=reason) as caught:
            loader.find([isa])
        assert "\n" not in str(caught.value)
        assert not list(own.glob("*.so"))
    bad = [compilers[name] for name in reasons]
    monkeypatch.setattr(loader, "compilers", lambda: ([*bad, compilers["good"]], ["CXX=nonsense is no program"]))
    assert loader.find([isa]).source == f"built in {own} by {compilers['good'][0]}"
    (line,) = capsys.readouterr().err.splitlines()
    assert all(reason in line for reason in (*reasons.values(), "CXX=nonsense"))

    for wrong in (FOREIGN, b"no library at all"):  # built elsewhere, in a home that several machines share
        home = Path(tempfile.mkdtemp(dir=tmp_path))
        monkeypatch.setattr(loader, "_folders", lambda home=home: iter([home]))
        path = home / file_name(isa)
        path.write_bytes(wrong)
        write_digest(path)
        monkeypatch.setattr(loader, "compilers", lambda: ([], []))
        with pytest.raises(UnavailableError, match="install g"):
            loader.find([isa])
        monkeypatch.setattr(loader, "compilers", lambda: ([compilers["good"]], []))
        assert loader.find([isa]).isa == isa
        assert len(capsys.readouterr().err.splitlines()) == 1

    monkeypatch.setattr(loader, "_folders", lambda: iter([own, other]))
    shutil.rmtree(own)
    own.write_text("a file where the folder should be")  # or a file system that cannot be written
    assert loader.find([isa]).source.startswith(f"built in {other} by")
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be used" in line


def test_a_shipped_library_that_cannot_be_trusted_or_is_damaged_is_passed_over(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped, kept = tmp_path / "shipped", tmp_path / "kept"
    for folder in (shipped, kept):
        folder.mkdir(mode=0o700)
        (folder / cached.name).write_bytes(cached.read_bytes())
        write_digest(folder / cached.name)
    isa = loader.library().isa
    monkeypatch.setattr(loader, "SHIPPED", shipped)
    monkeypatch.setattr(loader, "_folders", lambda: iter([kept]))
    monkeypatch.setattr(loader, "compilers", lambda: ([], []))
    assert loader.find([isa]).source == "shipped in the package"
    assert capsys.readouterr().err == ""
    (shipped / cached.name).chmod(0o666)
    assert loader.find([isa]).source == f"built in {kept}"
    assert "others may write" in capsys.readouterr().err
    (shipped / cached.name).unlink()  # this process has it loaded
    (shipped / cached.name).write_bytes(cached.read_bytes()[:5000])
    assert loader.find([isa]).source == f"built in {kept}"
    assert "install the package again" in capsys.readouterr().err
