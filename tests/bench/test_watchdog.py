"""A worker that gets nowhere is ended and named; one that computes, itself or in a child, is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmeeto_bench import watchdog
from rmeeto_bench.bench.run.processes import Outcome, Worker, events
from rmeeto_bench.bench.session.context import Job

STUCK = """
import json, sys, time
print("opening the driver", file=sys.stderr, flush=True)
print(json.dumps({"event": "stage", "stage": "warming up"}), flush=True)
time.sleep(600)
"""
COMPILES = """
import json, subprocess, sys
busy = "import time; end = time.monotonic() + 5\\nwhile time.monotonic() < end: pass"
subprocess.run([sys.executable, "-c", busy], check=True)
print(json.dumps({"event": "done"}), flush=True)
"""


def outcome(program: str, silent: float, silent_unseen: float = 600.0) -> Outcome:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    worker = Worker(Job("timing", "out", {}, "cuda:x", "vim_tiny", []), process, silent, silent_unseen)
    for _ in events(worker, lambda: False):
        pass
    found = worker.outcome()
    worker.close()
    return found


def test_a_worker_that_does_nothing_is_ended_and_its_last_words_are_told() -> None:
    found = outcome(STUCK, silent=1.5)
    assert found.status == "lost"
    assert "did nothing for" in found.reason
    assert "after warming up, its last words: opening the driver. It was ended; look at the driver" in found.reason


def test_a_worker_whose_child_computes_is_left_alone() -> None:
    assert outcome(COMPILES, silent=2.0).status == "done"


def test_without_processor_times_the_longer_silence_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PROC", tmp_path)
    assert "did nothing" in outcome(STUCK, silent=0.1, silent_unseen=1.0).reason
    assert outcome(COMPILES, silent=0.1).status == "done"


def test_a_word_costs_no_look_at_the_processor_times_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker says a word for every round; reading /proc for each took a core from what was measured."""
    monkeypatch.setattr(watchdog, "processor_seconds", lambda _: pytest.fail("it looked"))
    dog = watchdog.Watchdog(os.getpid(), silent=600.0)
    dog.heard()
    assert dog.stuck_for() is None


def test_the_sampler_of_a_gpu_is_no_progress() -> None:
    busy = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", busy, "rmeeto_bench.measure.devices.poller"]) as process:
        assert watchdog.processor_seconds(process.pid) == 0.0
        process.kill()
