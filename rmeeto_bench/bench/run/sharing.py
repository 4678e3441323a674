"""Several workers do one accuracy pass: every n-th batch each, no image twice, none padded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from rmeeto_bench.bench.plan.plan import BenchPlan, batch_size_for
from rmeeto_bench.bench.run.processes import Outcome
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.cpus import cores
from rmeeto_bench.records.run import DeviceRecord

Work = TypeVar("Work")
MOST_PROCESSES = 8  # on a CPU: each holds all arms of a model in memory


def _threads() -> int:
    """Threads that a pass on the CPU may have in all."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(int(given), cores()) if given.isdecimal() and int(given) else cores()


def shares(job: Job, devices: Sequence[DeviceRecord]) -> list[Job]:
    """The jobs that together do an accuracy pass on these devices: a process for each GPU, one for each core of a CPU.

    On a CPU a process a core is about 1.2 times as fast as one process with all of them. Everything is stored as the owner's,
    whoever does it. Decoding processes are divided, too; those of a CPU decode their images themselves.
    """
    plan = BenchPlan.from_dict(job.plan)
    if len(devices) == 1 and devices[0].kind == "cpu":
        threads = _threads()
        images, batch = plan.evaluated_images, batch_size_for(plan, "cpu")
        most = MOST_PROCESSES if images is None else min(MOST_PROCESSES, -(-images // batch))
        places = [devices[0].id] * min(threads, most)
        each: int | None = threads // len(places)
        decoding = job.workers if len(places) == 1 else (job.workers or 0) // len(places)
    else:
        places, each = [device.id for device in devices], None
        decoding = job.workers if len(places) == 1 else max(1, (cores() if job.workers is None else job.workers) // len(places))
    n = len(places)
    return [replace(job, device=place, shard=(i, n), threads=each, workers=decoding) for i, place in enumerate(places)]


def worst(ended: Sequence[tuple[Job, Outcome]]) -> tuple[Job, Outcome]:
    """The share that ended worst, and how: the whole pass ended no better."""
    return min(ended, key=lambda one: ("refused", "lost", "stopped", "done").index(one[1].status))


def at_once(work: Callable[[Work], None], items: Sequence[Work]) -> None:
    """Do the work on all items, each in a thread; Ctrl-C reaches the caller. Raises the first error."""
    if len(items) == 1:
        work(items[0])
        return
    failed: list[BaseException] = []

    def one(item: Work) -> None:
        try:
            work(item)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(item,), daemon=True) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # with a timeout, or Ctrl-C waits for the end
    if failed:
        raise failed[0]
