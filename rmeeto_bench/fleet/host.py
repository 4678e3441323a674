"""The host's side of a fleet: check that it may take part, carry out a task in a fresh process, return what it commits."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench import children
from rmeeto_bench.errors import DataError, RmeetoError
from rmeeto_bench.fleet.join.archive import pack
from rmeeto_bench.fleet.plan import Task, own_code, own_profiles
from rmeeto_bench.records.run import MANIFEST, load

if TYPE_CHECKING:
    from rmeeto_bench.bench.run.controls import News

EVERY = 1.0  # seconds between two looks at what was committed
LOG = "fleet.log"
MODULE = "rmeeto_bench.fleet.host"


@dataclass(frozen=True)
class Event:
    """News of a task."""

    task: str  # id of the task
    state: str  # started, committed, done, failed, refused or lost; the last four end the task
    host: str  # name of the machine; empty if it is not known
    detail: str = ""  # why the task ended so, or is started again, in one line
    archive: bytes | None = None  # the run so far as a .tar.gz, where hosts share no file system

    @property
    def final(self) -> bool:
        """Whether this is the task's last event."""
        return self.state in ("done", "failed", "refused", "lost")


def refusal(task: Task) -> str | None:
    """Why this host may not take part, or None."""
    code, profiles = own_code(), own_profiles()
    if code != task.code:
        return f"it has code {code}, the fleet {task.code}; install the same version there"
    if profiles != task.profiles:
        return f"its GPU profiles ({profiles}) are not the fleet's ({task.profiles}); install the same ones there"
    return None


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it left no word"
    return lines[-1].removeprefix("rmeeto-bench: ")[:300] if lines else "it left no word"


def _failure(task: Task, folder: Path, code: int, host: str) -> str:
    return f"{task.kind} {task.model} on {host}: {_last_line(folder / LOG)} (exit code {code})"


def _set_aside(folder: Path) -> None:
    """Rename the folder of a lost attempt on another GPU, so that the new attempt can use its name."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.lost{number}")).exists():
        number += 1
    folder.rename(aside)


def _may_resume(task: Task, folder: Path) -> bool:
    """Whether the run in the folder can be resumed here: that needs the same device, not another of its kind."""
    try:
        record = load(folder)
    except DataError:
        return False
    from rmeeto_bench.bench.run.devices import discover

    try:
        here = {device.id for device in discover(task.plan["gpus"])}
    except RmeetoError:
        return False
    return {device.id for device in record.devices} <= here


def carry_out(task: Task, folder: Path, *, ship: bool) -> Iterator[Event]:
    """Run a task into `folder` and yield its events; `ship` packs what is committed into them, for hosts that share no
    file system. What an earlier, interrupted attempt on the same device left in the folder is continued. The work happens in
    a process of its own, which ends with this one."""
    host = platform.node()
    reason = refusal(task)
    if reason is not None:
        yield Event(task.id, "refused", host, f"{host} is refused: {reason}")
        return
    yield Event(task.id, "started", host)
    if folder.exists() and not _may_resume(task, folder):
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG
    with log.open("ab") as output:
        child = subprocess.Popen(
            children.python(MODULE, str(folder)), stdin=subprocess.PIPE, stdout=output, stderr=output, env=children.variables()
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(task.plan).encode())
        child.stdin.close()
        try:
            for _ in _commits(folder, child):
                yield Event(task.id, "committed", host, archive=pack(folder) if ship else None)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    yield _ending(task, folder, child.returncode, host, ship=ship)


def _commits(folder: Path, child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Yields each time the run has rewritten its manifest, until the child exits."""
    seen: tuple[int, int] | None = None
    while child.poll() is None:
        time.sleep(EVERY)
        try:
            status = (folder / MANIFEST).stat()
        except OSError:
            continue
        if (status.st_mtime_ns, status.st_size) != seen:
            seen = status.st_mtime_ns, status.st_size
            yield


def _ending(task: Task, folder: Path, code: int, host: str, *, ship: bool) -> Event:
    try:
        record = load(folder)
        archive = pack(folder) if ship else None
    except DataError:
        return Event(
            task.id, "failed", host, f"{task.kind} {task.model} on {host}: {_last_line(folder / LOG)} (exit code {code})"
        )
    measured = {arm.arm for arm in record.arms if arm.device in {device.id for device in record.devices}}
    missing = [name for name in task.arms if name not in measured]
    if record.status != "complete" or missing:
        return Event(task.id, "failed", host, _failure(task, folder, code, host), archive)
    wrong = [device for device in record.devices if task.kind not in (device.profile, device.kind)]
    if wrong:
        detail = f"{host} has {wrong[0].name} ({wrong[0].profile}), not {task.kind}; label its node or partition so"
        return Event(task.id, "refused", host, detail)
    return Event(task.id, "done", host, archive=archive)


def main(words: list[str], text: str) -> int:
    """The child: run the plan given as JSON into the folder given, continuing what is there. Returns the exit code."""
    from rmeeto_bench.bench.plan.plan import BenchPlan
    from rmeeto_bench.bench.run.controls import Controls
    from rmeeto_bench.bench.run.runner import resume, run

    folder = Path(words[0])
    plan: dict[str, Any] = json.loads(text)
    controls = Controls(_log)
    try:
        if (folder / MANIFEST).is_file():
            record = resume(folder, controls)
        else:
            record = run(BenchPlan.from_dict(plan), folder, controls, argv=("fleet", plan["gpus"], *plan["models"]))
    except RmeetoError as error:
        print(f"rmeeto-bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if record.status == "complete" else 6


def _log(news: News) -> None:
    """Write notes and stages to the log of the task, which needs no progress bar."""
    if news.text:
        print(f"{news.device} {news.model} {news.text}" if news.device else f"note: {news.text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdin.read()))
