"""Ctrl-C and SIGTERM in fresh processes: one line, exit 130, nothing lost, and soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLEEPING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal: background work of a shell ignores it
import rmeeto_bench.cli.commands.report as report
def draw(arguments):
    print("drawing", flush=True)
    time.sleep(600)
report.main = draw
from rmeeto_bench.cli.main import main
sys.exit(main(["report", "x"]))
"""
DEAF = """
import sys, time
import rmeeto_bench.cli.commands.report as report
from rmeeto_bench.cli import interrupt
interrupt.PATIENCE = float(sys.argv[1])
def work(arguments):
    with interrupt.graceful("ending the block") as should_stop:
        print("working", flush=True)
        while len(sys.argv) < 3 or not should_stop():
            time.sleep(0.01)
    print("saved", flush=True)
    return 130
report.main = work
from rmeeto_bench.cli.main import main
sys.exit(main(["report", "x"]))
"""


def started(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_something_is_drawn_is_answered(number: int) -> None:
    process = started("-c", SLEEPING)
    assert process.stdout is not None
    assert process.stdout.readline() == "drawing\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "rmeeto-bench: stopped\n"
    assert process.returncode == 130


@pytest.mark.parametrize("patience", ["0.3", "1000"])
def test_work_that_does_not_end_is_ended_after_a_while_or_by_a_second_signal(patience: str) -> None:
    process = started("-c", DEAF, patience)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    assert "ending the block (Ctrl-C again" in process.stderr.readline()
    if patience == "1000":
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "rmeeto-bench: stopped\n")


def test_work_that_ends_when_it_is_asked_to_saves() -> None:
    process = started("-c", DEAF, "1000", "obedient")
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "saved\n"), err


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ablating_stopped_in_a_batch_of_minutes_ends_without_it() -> None:
    process = started("-m", "rmeeto_bench", "ablate", "--all", "--images", "10000", "--batch-size", "10000")
    while processor_seconds(process.pid) < 6 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "leaving this batch" in err or "stopped" in err
