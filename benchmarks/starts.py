"""How much processor time do starts take, as ratios to `import torch` in the same run?

    python benchmarks/starts.py [--times 3]

A run starts a process for each session, so what a start costs is paid many times. Each is measured with all its children, the
median of several. Run it on a quiet machine; a ratio bears some load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rmeeto_bench import children
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.require import require
from rmeeto_bench.bench.run.devices import discover
from rmeeto_bench.bench.run.processes import Worker, launch
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.watchdog import processor_seconds

COMMAND = (sys.executable, "-m", "rmeeto_bench")


def of_command(*words: str) -> float:
    """Seconds of processor time of a command and all its children."""
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(words, cwd=folder, env=children.variables(), check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def of_worker(model: str) -> float:
    """Seconds of processor time until a worker has built the arms of a model, with r = 0 and 20, and begins to time."""
    plan = BenchPlan(models=(model,), rs=(0, 20), gpus="none", batch_size=1, checkpoints="none")
    (device,) = discover("none")
    resolved = require(plan, [device])[model].as_dict()
    with tempfile.TemporaryDirectory() as folder:
        Store.create(Path(folder)).close()
        job = Job("timing", folder, plan.as_dict(), device.id, model, [resolved])
        worker = Worker(job, launch(job))
        try:
            while (event := worker.next_event(lambda: False)) is not None:
                if event["event"] == "stage" and event["stage"].endswith("timing"):
                    break
            return processor_seconds(worker.process.pid) or float("nan")
        finally:
            worker.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="how often each is started (default: 3)")
    times = parser.parse_args().times
    simulated = (*COMMAND, "--device", "sim", "--gpus", "all", "--out", "run")
    starts: dict[str, Callable[[], float]] = {
        "import torch": lambda: of_command(sys.executable, "-c", "import torch"),
        "rmeeto-bench --help": lambda: of_command(*COMMAND, "--help"),
        "rmeeto-bench profiles": lambda: of_command(*COMMAND, "profiles"),
        "a worker of vim_tiny, built and ready": lambda: of_worker("vim_tiny"),
        "a worker of vim_nano, built and ready": lambda: of_worker("vim_nano"),
        "rmeeto-bench --device sim --gpus all": lambda: of_command(*simulated),
    }
    found = {name: statistics.median(measure() for _ in range(times)) for name, measure in starts.items()}
    for name, seconds in found.items():
        print(f"{name:42} {seconds:7.2f} s {seconds / found['import torch']:7.2f}x")


if __name__ == "__main__":
    main()
