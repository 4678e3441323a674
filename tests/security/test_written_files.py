"""Files are written beside and renamed: a link at a file's name is replaced, a full disk keeps what was there."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from sample_runs import cpu_run

from rmeeto_bench.cli.main import main
from rmeeto_bench.files import write_atomic
from rmeeto_bench.records.run import save
from rmeeto_bench.report.run.files import write_all

NAMES = ("table.csv", "table.md", "table.tex", "report.html", "speed_accuracy.png", "speed_accuracy.pdf", "speed_accuracy.svg")


def test_a_link_at_the_name_of_any_output_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"precious")
    save(cpu_run(), folder)
    for name in (*NAMES, "speedup.png", "one.svg", "export.csv"):
        (folder / name).symlink_to(victim)
    assert main(["report", str(folder)]) == 0
    assert main(["figure", str(folder), "--kind", "speedup"]) == 0
    assert main(["figure", str(folder), "--out", str(folder / "one.svg")]) == 0
    assert main(["export", str(folder), "--to", "csv", "--out", str(folder / "export.csv")]) == 0
    assert victim.read_bytes() == b"precious"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert {path.name for path in folder.iterdir()} == {*NAMES, "manifest.json", "one.svg", "export.csv"} | {
        f"speedup.{kind}" for kind in ("png", "pdf", "svg")
    }


def test_a_disk_that_takes_no_more_keeps_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(cpu_run(), tmp_path)
    write_all(cpu_run(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code = main(["report", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    errors = capsys.readouterr().err
    assert code == 6
    assert "table.csv: File too large" in errors
    assert "Traceback" not in errors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """As root, `--json /dev/null` put a file in the place of the device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for place in (pipe, link):
        reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
        write_atomic(place, "told")
        assert reader.communicate()[0] == b"told"
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}
