"""The worker as a process of its own: its lifeline, and a standard output that carries events only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_harness import sim_plan

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.resolve import without_weights
from rmeeto_bench.bench.run.processes import Worker, events, launch
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.worker import LOST
from rmeeto_bench.bench.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Store.create(tmp_path).close()
    return tmp_path


def test_a_session_runs_in_a_fresh_process(folder: Path) -> None:
    plan = sim_plan(preset="quick")
    arms = without_weights(plan, "vim_tiny").as_dict()
    job = Job("timing", str(folder), plan.as_dict(), "sim:rtx4090", "vim_tiny", [arms])
    worker = Worker(job, launch(job))
    heard = list(events(worker, lambda: False))
    assert worker.outcome().status == "done"
    worker.close()
    assert {event["event"] for event in heard} == {"stage", "timing"}
    with Store.open(folder) as store:
        (session,) = store.sessions("sim:rtx4090", "vim_tiny", "timing")
        assert session.pid == worker.process.pid
        assert session.environment["packages"]["torch"]
        assert len(store.blocks("sim:rtx4090")) >= 12


@pytest.mark.slow
def test_a_worker_does_not_outlive_its_parent(folder: Path) -> None:
    plan = BenchPlan(models=("vim_nano",), rs=(0,), gpus="none", preset="rigorous", checkpoints="none")
    job = Job("timing", str(folder), plan.as_dict(), "cpu", "vim_nano", [without_weights(plan, "vim_nano").as_dict()])
    process = subprocess.Popen(
        [sys.executable, "-m", "rmeeto_bench.bench.session.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(job.as_line())
    process.stdin.flush()
    while json.loads(process.stdout.readline())["event"] != "timing":
        pass
    process.stdin.close()  # what the system does when the parent dies
    start = time.monotonic()
    assert process.wait(timeout=30) == LOST
    assert time.monotonic() - start < 20
    process.stdout.close()


def test_a_worker_without_a_job_ends() -> None:
    done = subprocess.run([sys.executable, "-m", "rmeeto_bench.bench.session.worker"], stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == LOST
