"""Runs a plan: fresh processes for sessions, device after device, and a manifest that is up to date after each of them.

What is measured lies in the store the moment it exists; this module decides what is still to do, and so a run that was
cut short is continued by the same code that began it.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from rmeeto_bench.bench.environment import environment
from rmeeto_bench.bench.plan.others import OWN, check_allowed
from rmeeto_bench.bench.plan.plan import TRAIN, BenchPlan, protocol_for
from rmeeto_bench.bench.plan.require import require
from rmeeto_bench.bench.plan.resolve import Resolved
from rmeeto_bench.bench.run.controls import Controls, Telling
from rmeeto_bench.bench.run.devices import discover, no_gpu
from rmeeto_bench.bench.run.folder_lock import folder_lock
from rmeeto_bench.bench.run.locks import device_lock
from rmeeto_bench.bench.run.parallel import solo_against_together
from rmeeto_bench.bench.run.processes import Outcome, Worker, events
from rmeeto_bench.bench.run.sharing import at_once, shares, worst
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.store.untrusted import check_stored
from rmeeto_bench.bench.summary.record import assemble
from rmeeto_bench.errors import CheckpointError, DiskFullError, RmeetoError, SlowPathError, UnavailableError, UsageError
from rmeeto_bench.files import now, plain
from rmeeto_bench.measure.turns import VARIABLE
from rmeeto_bench.records.run import DATABASE, MANIFEST, DeviceRecord, RunRecord, load, save
from rmeeto_bench.version import __version__
from rmeeto_bench.watchdog import SILENT, SILENT_UNSEEN


def new_run_id(plan: BenchPlan) -> str:
    """Sortable by time, readable, unique."""
    kind = "eval-" if plan.accuracy_only else ""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}{plain('+'.join(plan.names))}-{secrets.token_hex(2)}"


@dataclass
class Running:
    """A run at work."""

    plan: BenchPlan  # what is asked for
    folder: Path  # of the run
    record: RunRecord  # as far as it is
    controls: Controls  # the caller's side
    resolved: Mapping[str, Resolved]  # the plan's models by name
    lost: dict[str, str] = field(default_factory=dict)  # device id -> why nothing more is measured on it
    refused: dict[str, RmeetoError] = field(default_factory=dict)  # device id -> its error
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of record and workers
    _workers: list[Worker] = field(default_factory=list)  # at work

    @property
    def present(self) -> list[DeviceRecord]:
        """The devices that are there."""
        return [device for device in self.record.devices if device.id not in self.lost]

    def missing(self, store: Store, device: DeviceRecord, group: str) -> list[tuple[str, int]]:
        """(kind, number) of the jobs that are still to be done for a group on a device, in order."""

        def done(kind: str) -> int:
            return sum(session.status == "done" for session in store.sessions(device.id, group, kind))

        if self.plan.accuracy_only:
            return [] if done("accuracy") else [("accuracy", 0)]
        timed = done("timing")
        jobs = [("timing", number) for number in range(timed, protocol_for(self.plan, device.kind).sessions)]
        if jobs:
            return jobs  # what else there is to do shows when arms were built
        if self.plan.paper_mode and not done("paper"):
            jobs.append(("paper", 0))
        if self.plan.sweep and not done("sweep"):
            jobs.append(("sweep", 0))
        if self.plan.energy and device.kind != "cpu" and not done("energy"):
            jobs.append(("energy", 0))
        if self.plan.trace and not done("trace"):
            jobs.append(("trace", 0))
        if self.plan.fed and not done("fed"):
            jobs.append(("fed", 0))
        if self.plan.what == TRAIN:
            return jobs  # the weights change: there is nothing to evaluate
        last = store.sessions(device.id, group, "timing")[-1]
        facts = store.facts(device.id, last.session).values()
        trained = any((fact["checkpoint_sha256"] or fact["weights"] == OWN) and fact["failure"] is None for fact in facts)
        if trained and last.result.get("data") and not done("accuracy"):
            jobs.append(("accuracy", 0))
        return jobs

    def save(self, store: Store, status: str) -> None:
        """Bring the manifest up to date."""
        with self._lock:
            self.record = assemble(replace(self.record, status=status), self.plan, store, self.lost, self.refused)
            save(self.record, self.folder)

    def job(self, kind: str, device: DeviceRecord, group: str, number: int = 0) -> Job:
        """A job of this run. An evaluation is the first device's, whichever does the work."""
        resolved, plan = [self.resolved[model].as_dict() for model in self.plan.groups[group]], self.plan.as_dict()
        owner = self.record.devices[0].id if self.plan.accuracy_only else device.id
        return Job(kind, str(self.folder), plan, device.id, group, resolved, number, self.controls.workers, owner=owner)

    def begin(self, kind: str, device: DeviceRecord, group: str) -> Worker:
        """Start a worker on a job."""
        return self.start(self.job(kind, device, group))

    def start(self, job: Job) -> Worker:
        """Start a worker; it is ended when the run is left, however that happens."""
        patience = SILENT_UNSEEN if VARIABLE in os.environ else SILENT  # one that takes turns may wait for the other program
        worker = Worker(job, self.controls.launch(job), patience)
        with self._lock:
            self._workers.append(worker)
        return worker

    def finish(self, worker: Worker) -> None:
        """Forget a worker that has ended."""
        worker.close()
        with self._lock:
            self._workers = [other for other in self._workers if other is not worker]

    def end_all(self) -> None:
        """End every worker at once."""
        for worker in list(self._workers):
            self.finish(worker)

    def perform(self, kind: str, device: DeviceRecord, group: str, number: int) -> tuple[DeviceRecord, Outcome]:
        """One job in a process of its own, or an accuracy pass in as many as share it. What they say is told; returned is how
        it ended, and on which device."""
        at_work = self.present if self.plan.accuracy_only else [device]
        job = self.job(kind, device, group, number)
        telling = Telling(self.controls.tell, ", ".join(self.record.label(one.id) for one in at_work))
        outcomes: list[tuple[Job, Outcome]] = []
        ended = threading.Event()  # one of them ended too early: so shall the others

        def follow(worker: Worker) -> None:
            for event in events(worker, lambda: ended.is_set() or self.controls.should_stop()):
                telling.hear(worker.job.shard[0], event)
            outcomes.append((worker.job, worker.outcome()))
            if outcomes[-1][1].status != "done":
                ended.set()
            self.finish(worker)

        at_once(follow, [self.start(one) for one in (shares(job, at_work) if kind == "accuracy" else [job])])
        last, outcome = worst(outcomes)
        return self.record.device(last.device), outcome

    def check_images(self, device: DeviceRecord) -> None:
        """Raise `DataError` if images that were evaluated on a device are others now. Bundled images do not change."""
        if self.plan.data is None:
            return
        with Store.open(self.folder) as store:
            owner = self.record.devices[0] if self.plan.accuracy_only else device
            evaluated = [group for group in self.plan.groups if store.sessions(owner.id, group, "accuracy")]
        for group in evaluated:
            _, outcome = self.perform("images", device, group, 0)
            if outcome.error is not None:
                raise outcome.error

    def measure_device(self, device: DeviceRecord) -> None:
        """All jobs of one device, under its lock. A job that fails ends the device's work, not the run."""
        with Store.open(self.folder) as store:
            for group in self.plan.groups:
                while jobs := self.missing(store, device, group):
                    kind, number = jobs[0]
                    place, outcome = self.perform(kind, device, group, number)
                    store.lose_sessions(device.id)
                    if outcome.status == "done":
                        store.join_shares(device.id, group)
                    self._judge(place, kind, number, outcome)
                    self.save(store, "running")
                    if outcome.status != "done" or self.controls.should_stop():
                        return

    def _judge(self, device: DeviceRecord, kind: str, number: int, outcome: Outcome) -> None:
        """Note how a job ended. An error that is the plan's, not the device's, ends the run."""
        what = f"session {number + 1}" if kind == "timing" else f"the {kind} pass"
        if outcome.status == "lost":
            self.lost[device.id] = f"{device.name} ({device.id}), {what}: {outcome.reason}; finished sessions are kept"
            self.controls.note(self.lost[device.id])
        elif outcome.error is not None:
            if not isinstance(outcome.error, UnavailableError) or isinstance(outcome.error, DiskFullError):
                raise outcome.error
            if isinstance(outcome.error, SlowPathError):
                self.refused[device.id] = outcome.error
            self.lost[device.id] = f"{device.name} ({device.id}), {what}: {outcome.error}"
            if len(self.record.devices) > 1:
                self.controls.note(self.lost[device.id])


def measure_all(running: Running) -> None:
    """Measure every device of the run, one after the other, or together where that was asked for and changes nothing. An
    evaluation is the first device's, and all that are there share its images."""
    controls, devices = running.controls, running.present
    if running.plan.accuracy_only:
        _locked(running, lambda: running.measure_device(running.record.devices[0]))
        return
    if running.plan.schedule == "parallel" and len(devices) > 1 and _may_run_together(running):
        _locked(running, lambda: at_once(running.measure_device, running.record.devices))
        return
    for device in devices:
        with device_lock(device.id, controls.note, controls.should_stop) as held:
            if held:
                running.measure_device(device)
        if controls.should_stop():
            return


def _locked(running: Running, work: Callable[[], None]) -> bool:
    """Do something under the locks of all devices; False where the wait for one was given up."""
    controls = running.controls
    with ExitStack() as locks:
        for device in sorted(running.present, key=lambda device: device.id):  # one order for all: no deadlock
            if not locks.enter_context(device_lock(device.id, controls.note, controls.should_stop)):
                return False
        work()
    return True


def _may_run_together(running: Running) -> bool:
    controls, found = running.controls, list[tuple[bool, str]]()

    def test() -> None:
        found.append(solo_against_together(running.begin, running.finish, running.record, running.plan, controls))

    if not _locked(running, test):
        return False
    passed, words = found[0]
    with Store.open(running.folder) as store:
        store.lose_sessions()
    controls.note(f"{words}: measuring {'all together' if passed else 'one after the other'}")
    return passed


def _carry_out(running: Running) -> RunRecord:
    """From a begun or stored run to its end."""
    controls = running.controls
    with Store.create(running.folder, resume=True) as store:
        if store.note:
            controls.note(store.note)
        store.lose_sessions()
        running.save(store, "running")
        try:
            measure_all(running)
        except BaseException:
            running.end_all()
            with suppress(OSError, RmeetoError):  # the disk may be full; the reason for that is what must be told
                store.lose_sessions()
                running.save(store, "interrupted")
            raise
        plan, first = running.plan, running.record.devices[0]
        if len(running.refused) == (1 if plan.accuracy_only else len(running.record.devices)):
            running.save(store, "failed")
            raise next(iter(running.refused.values()))
        if plan.accuracy_only and not any(running.missing(store, first, group) for group in plan.groups):
            running.lost.clear()  # others did the share of one that is gone
        status = "interrupted" if controls.should_stop() else "failed" if running.lost else "complete"
        running.save(store, status)
    return running.record


def run(
    plan: BenchPlan,
    folder: Path,
    controls: Controls,
    *,
    argv: tuple[str, ...] = (),
    parent_run: str | None = None,
) -> RunRecord:
    """Carry out a plan in a new folder.

    Raises `UnavailableError` for a missing device or backend, `CheckpointError`, `DataError` and `UsageError`; then nothing
    is left behind unless something was measured.
    """
    if (folder / DATABASE).exists():
        Store.create(folder)  # says what to do, before anything that takes long
    check_allowed(plan, controls.arms, "this plan")
    devices = discover(plan.gpus)
    if absent := no_gpu(plan.gpus, devices):
        controls.note(f"{absent}: measuring on the CPU")
    if plan.energy and any(device.kind == "cpu" for device in devices):
        raise UsageError("--energy needs a GPU whose driver counts joules; leave it out to measure a CPU")
    if (plan.trace or plan.fed) and any(device.kind == "sim" for device in devices):
        raise UsageError("a simulated device runs no operations and reads no images; leave --trace and --fed out")
    resolved = require(plan, devices)
    _tell(resolved, controls)
    with folder_lock(folder, controls.note, controls.should_stop):
        if (folder / MANIFEST).exists() or (folder / DATABASE).exists():
            Store.create(folder)  # says what to do
        record = RunRecord(
            run_id=new_run_id(plan),
            created_utc=now(),
            status="running",
            tool_version=__version__,
            argv=argv,
            plan=plan.as_dict(),
            environment=environment(torch=any(device.kind != "sim" for device in devices)),
            devices=devices,
            arms=(),
            parent_run=parent_run,
        )
        save(record, folder)
        try:
            return _carry_out(Running(plan, folder, record, controls, resolved))
        except RmeetoError:
            _remove_if_empty(folder)
            raise


def _tell(resolved: Mapping[str, Resolved], controls: Controls) -> None:
    """Say what the user should know about the weights."""
    for note in dict.fromkeys(note for model in resolved.values() for note in model.notes):
        controls.note(note)


def check_weights(record: RunRecord, resolved: Mapping[str, Resolved]) -> None:
    """Raise `CheckpointError` if an arm that was measured would be loaded with another file now."""
    for arm in record.arms:
        weights = resolved[arm.model].weights.get(arm.arm) if arm.model in resolved else None
        if weights is not None and arm.checkpoint_sha256 and weights.sha256 != arm.checkpoint_sha256:
            raise CheckpointError(
                f"{weights.path or 'no file'} is not the checkpoint that {arm.arm} was measured with; "
                "put the old file back, or measure again with rerun"
            )


def _remove_if_empty(folder: Path) -> None:
    """Take away a run that measured nothing, so that the corrected command can use the same folder."""
    try:
        with Store.open(folder) as store:
            if store.count() or store.count("prediction"):
                return
    except RmeetoError:
        return
    for name in (MANIFEST, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (folder / name).unlink(missing_ok=True)


def resume(folder: Path, controls: Controls) -> RunRecord:
    """Continue a run that was cut short; a complete one is left as it is. Finished sessions are kept, an interrupted one
    is measured again as a new session.

    Raises `DataError` for a folder without a run, `UnavailableError` if another process works on it.
    """
    load(folder)  # no lock is left where there is no run
    with folder_lock(folder, controls.note, controls.should_stop):
        record = load(folder)
        check_stored(folder)
        plan = BenchPlan.from_dict(record.plan)
        check_allowed(plan, controls.arms, str(folder))
        here = {device.id for device in discover(_spec(record))}
        resolved = require(plan, record.devices)
        check_weights(record, resolved)
        _tell(resolved, controls)
        running = Running(plan, folder, record, controls, resolved)
        for device in record.devices:
            if device.id not in here:
                running.lost[device.id] = f"{device.name} ({device.id}): not in this machine any more"
                controls.note(running.lost[device.id])
        present = tuple(device for device in record.devices if device.id in here)
        if not present:
            raise UnavailableError("; ".join(running.lost.values()) + "; continue where they are, or measure anew with rerun")
        for device in present[:1] if plan.accuracy_only else present:
            running.check_images(device)
        running.record = replace(record, resumed_utc=(*record.resumed_utc, now()), failures=())
        return _carry_out(running)


def _spec(record: RunRecord) -> str:
    """What to look for to find the devices of a record again."""
    kinds = {device.kind for device in record.devices}
    if kinds == {"sim"}:
        return "sim:" + ",".join(device.id.removeprefix("sim:") for device in record.devices)
    return "none" if kinds == {"cpu"} else "all"


def rerun(folder: Path, target: Path, controls: Controls, *, argv: tuple[str, ...] = ()) -> RunRecord:
    """Repeat a stored run by its plan in a new folder; the new record names the old run."""
    before = load(folder)
    record = run(BenchPlan.from_dict(before.plan), target, controls, argv=argv, parent_run=before.run_id)
    weights = {arm.arm: arm.checkpoint_sha256 for arm in before.arms if arm.checkpoint_sha256}
    changed = sorted({arm.arm for arm in record.arms if weights.get(arm.arm, arm.checkpoint_sha256) != arm.checkpoint_sha256})
    if changed:
        controls.note(f"the checkpoints of {', '.join(changed)} are not those of {before.run_id}")
    return record
