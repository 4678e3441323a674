"""The head's side of a fleet: it hands tasks to an engine, keeps the results, and keeps one merged run up to date."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rmeeto_bench.errors import DataError
from rmeeto_bench.files import write_atomic
from rmeeto_bench.fleet.engines.local import CELLS, Engine
from rmeeto_bench.fleet.host import Event
from rmeeto_bench.fleet.join.archive import unpack
from rmeeto_bench.fleet.join.gather import gather
from rmeeto_bench.fleet.plan import Task
from rmeeto_bench.records.run import MANIFEST, RunRecord, load, save

PLAN = "fleet.json"


@dataclass(frozen=True)
class Driven:
    """What a fleet has achieved."""

    record: RunRecord | None  # the merged run; None: nothing came back
    endings: dict[str, Event]  # task id -> its last event, for the tasks that ran this time
    missing: tuple[str, ...]  # planned cells without a result, as `kind arm`


def _claim(tasks: Sequence[Task], out: Path) -> None:
    """Make `out` the folder of this fleet, unless it is already. Raises `DataError` if it belongs to another one."""
    text = json.dumps({"tasks": [asdict(task) for task in tasks]}, indent=1) + "\n"
    path = out / PLAN
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise DataError(f"{out} holds another fleet's results (other plan or code); choose another --out or remove it")
    if not path.is_file() and (out / MANIFEST).exists():
        raise DataError(f"{out} already holds a run; choose another --out or remove it")
    write_atomic(path, text)


def is_done(task: Task, out: Path) -> bool:
    """Whether a task's result is complete."""
    try:
        record = load(out / CELLS / task.id)
    except DataError:
        return False
    return record.status == "complete" and set(task.arms) <= {arm.arm for arm in record.arms}


def _keep(event: Event, out: Path) -> None:
    """Replace the stored result of a task by what it has committed now."""
    if event.archive is None:
        return
    folder = out / CELLS / event.task
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        packed = Path(scratch) / "run.tar.gz"
        packed.write_bytes(event.archive)
        fresh = unpack(packed, Path(scratch) / "run")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        fresh.rename(folder)


def merge_cells(tasks: Sequence[Task], out: Path, failures: Sequence[str]) -> RunRecord | None:
    """Merge the results so far into the run in `out`. None if there are none."""
    folders = [out / CELLS / task.id for task in tasks]
    present = []
    for folder in folders:
        try:
            if load(folder).arms:
                present.append(folder)
        except DataError:
            continue  # not come back yet
    if not present:
        return None
    merged, _ = gather(present, out, replace=True)
    status = merged.record.status if not failures else "failed"
    record = replace(merged.record, status=status, failures=(*merged.record.failures, *failures))
    save(record, out)
    return record


def _missing(tasks: Sequence[Task], record: RunRecord | None) -> tuple[str, ...]:
    """Planned cells without a measured arm. Raises `DataError` if a cell is there twice."""
    found: list[tuple[str | None, str]] = []
    if record is not None:
        profiles = {device.id: device.profile for device in record.devices}
        found = [(profiles[arm.device], arm.arm) for arm in record.arms]
    return tuple(f"{task.kind} {arm}" for task in tasks for arm in task.arms if (task.kind, arm) not in found)


def drive(engine: Engine, tasks: Sequence[Task], out: Path, on_event: Callable[[Event], None]) -> Driven:
    """Carry out the tasks that are not done yet, and merge all results into `out` after each of them.

    Calling it again continues: finished tasks are not repeated. Raises `DataError` for a folder with other contents.
    """
    _claim(tasks, out)
    endings: dict[str, Event] = {}
    open_tasks = [task for task in tasks if not is_done(task, out)]
    absent = engine.missing(tuple(dict.fromkeys(task.kind for task in open_tasks)))
    for task in open_tasks:
        if task.kind in absent:
            endings[task.id] = Event(task.id, "lost", "", absent[task.kind])
            on_event(endings[task.id])
    startable = [task for task in open_tasks if task.kind not in absent]
    for event in engine.run(startable, out) if startable else ():
        _keep(event, out)
        on_event(event)
        if event.final:
            endings[event.task] = event
            merge_cells(tasks, out, [])
    failures = list(dict.fromkeys(event.detail for event in endings.values() if event.state != "done"))
    record = merge_cells(tasks, out, failures)
    return Driven(record, endings, _missing(tasks, record))
