"""The equivalence test before a parallel run: the same workers measure alone and together, in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.processes import Worker
from rmeeto_bench.bench.session.equivalence import PAIRS, verdict
from rmeeto_bench.records.run import DeviceRecord, RunRecord


class Says(Protocol):
    """As much of a run's controls as is needed here."""

    @property
    def should_stop(self) -> Callable[[], bool]:
        """Whether to give up."""
        ...


def _block(worker: Worker, should_stop: Callable[[], bool]) -> float | None:
    """The seconds of the block that was ordered, or None if the worker is gone."""
    while (event := worker.next_event(should_stop)) is not None:
        if event["event"] == "block":
            return float(event["seconds"])
    return None


def _ready(worker: Worker, should_stop: Callable[[], bool]) -> bool:
    while (event := worker.next_event(should_stop)) is not None:
        if event["event"] == "ready":
            return True
    return False


def solo_against_together(
    start: Callable[[str, DeviceRecord, str], Worker],
    finish: Callable[[Worker], None],
    record: RunRecord,
    plan: BenchPlan,
    says: Says,
) -> tuple[bool, str]:
    """Whether the devices may be timed together, and why.

    Every worker warms up its baseline and stays alive; blocks alone (one device after the other, the rest idle) and
    blocks together alternate, so that drift and process effects fall on both alike.
    """
    workers = {record.label(one.id): start("equivalence", one, next(iter(plan.groups))) for one in record.devices}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in workers}
    try:
        for name, worker in workers.items():
            if not _ready(worker, says.should_stop):
                return False, f"{name} does not get ready to be measured together with others"
        for _ in range(PAIRS):
            for name, worker in workers.items():
                worker.tell("go")
                times[name][0].append(_block(worker, says.should_stop) or float("nan"))
            for worker in workers.values():
                worker.tell("go")
            for name, worker in workers.items():
                times[name][1].append(_block(worker, says.should_stop) or float("nan"))
            if says.should_stop():
                return False, "the test of measuring together was stopped"
        for worker in workers.values():
            worker.stop()
        return verdict(times)
    finally:
        for worker in workers.values():
            finish(worker)
