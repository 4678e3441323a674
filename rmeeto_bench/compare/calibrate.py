"""The noise of a device: the same model against itself, in several fresh processes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rmeeto_bench import __version__
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.plan.require import require
from rmeeto_bench.bench.run.controls import Controls
from rmeeto_bench.bench.run.locks import device_lock
from rmeeto_bench.bench.run.processes import Worker, events
from rmeeto_bench.bench.run.sharing import at_once
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.jobs import perform
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.compare.noise import NoiseProfile, estimate_noise
from rmeeto_bench.compare.turn_server import Turnstile
from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.files import now
from rmeeto_bench.measure.protocol import TimingProtocol
from rmeeto_bench.records.run import Block, DeviceRecord
from rmeeto_bench.watchdog import SILENT, SILENT_UNSEEN


@dataclass(frozen=True)
class Calibration:
    """What is measured on each device."""

    plan: BenchPlan  # one model at r = 0
    protocol: TimingProtocol  # of each process
    processes: int  # fresh processes a device
    controls: Controls  # is told what goes on, and starts the processes


def calibrate(device: DeviceRecord, asked: Calibration) -> NoiseProfile:
    """The noise profile of one device.

    Raises `MeasurementError` where too little could be measured, and what a run of this plan raises.
    """
    turns = device.kind == "cpu"  # two processes at a time, block by block, as those of a gate on a CPU
    with (
        device_lock(device.id, asked.controls.note, asked.controls.should_stop),
        tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as folder,
    ):
        noise = estimate_noise(_blocks(device, asked, Path(folder), together=2 if turns else 1), turns=turns)
    return NoiseProfile(device.id, device.name, now(), __version__, noise)


def _blocks(device: DeviceRecord, asked: Calibration, folder: Path, *, together: int) -> list[Block]:
    """All processes of a device, one group after the other. A simulated device needs none: its noise is that of its seed."""
    (model,) = asked.plan.models
    resolved = require(asked.plan, [device])[model].as_dict()
    job = Job("noise", str(folder), asked.plan.as_dict(), device.id, model, [resolved], protocol=asdict(asked.protocol))
    with Store.create(folder) as store:
        for start in range(0, asked.processes, together):
            numbers = range(start, min(start + together, asked.processes))
            if device.kind == "sim":
                perform(replace(job, session=start), lambda *_, **__: None, asked.controls.should_stop, str)
                continue
            words = " and ".join(str(number + 1) for number in numbers)
            asked.controls.note(f"{device.name}: process {words} of {asked.processes}")
            _at_once([replace(job, session=number) for number in numbers], asked.controls)
        return store.blocks(device.id)


def _at_once(jobs: Sequence[Job], controls: Controls) -> None:
    """Carry out jobs in a process each, which take turns. Raises the error of the first that fails, and ends the others."""
    turnstile = Turnstile([str(job.session) for job in jobs])
    patience = SILENT if len(jobs) == 1 else SILENT_UNSEEN  # one that waits for its turn says nothing
    workers: list[Worker] = []

    def follow(worker: Worker) -> None:
        for _ in events(worker, controls.should_stop):
            pass
        turnstile.ended(str(worker.job.session))
        outcome = worker.outcome()
        if outcome.status != "done":
            for other in workers:
                other.process.kill()
            raise outcome.error or UnavailableError(f"a process of the calibration failed: {outcome.reason}")

    try:
        for job in jobs:
            taken = replace(job, turns=turnstile.variable(str(job.session))) if len(jobs) > 1 else job
            workers.append(Worker(taken, controls.launch(taken), patience))
        at_once(follow, workers)
    finally:
        turnstile.close()
        for worker in workers:
            worker.close()
