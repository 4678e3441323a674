"""Tasks on a Ray cluster: one task per GPU, on a node of the right kind, results streamed back as they are committed.

Ray moves plain dictionaries and bytes between hosts of one cluster, which trust each other; nothing of it is stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.fleet.engines.local import Patience, needs_gpu, profile_of
from rmeeto_bench.fleet.host import Event, carry_out
from rmeeto_bench.fleet.plan import CPU, Task

LABEL = "rmeeto-kind"  # a node label that names the profile, where Ray's own name for a GPU is not precise enough
LOOK = 1.0  # seconds


def _worker(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On the node: carry out a task in a temporary folder, events out as plain dictionaries."""
    with tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as scratch:
        for event in carry_out(Task(**task), Path(scratch) / "run", ship=True):
            yield asdict(event)


@dataclass
class _Flight:
    """A task under way."""

    task: Task  # what runs
    stream: Any  # Ray's generator of the task's events
    attempt: int  # number of this start, from 1
    until: float  # monotonic time of the deadline, seconds


class RayEngine:
    """A cluster, found by its address (`auto`, `host:port`, or `local` for one that is started on this machine)."""

    def __init__(self, address: str, limits: Patience) -> None:
        """Connect. Raises `UnavailableError` without Ray or without a cluster there."""
        try:
            import ray
        except ImportError:
            raise UnavailableError("--engine ray needs Ray: pip install 'rmeeto-bench[fleet]'") from None
        self._ray, self._limits = ray, limits
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "ignore_reinit_error": True}
        if address == "local":
            options |= {"include_dashboard": False, "dashboard_host": "127.0.0.1"}
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise UnavailableError(
                f"no Ray cluster at {address} ({first}); start one with: ray start --head --dashboard-host 127.0.0.1"
            ) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _labelled(self, kind: str) -> bool:
        return any(node.get("Labels", {}).get(LABEL) == kind for node in self._nodes())

    def _resource(self, kind: str) -> str:
        return f"accelerator_type:{profile_of(kind).ray}"

    def _has(self, kind: str) -> bool:
        if kind == CPU:
            return any(node["Resources"].get("CPU", 0) >= 1 for node in self._nodes())
        return self._labelled(kind) or any(self._resource(kind) in node["Resources"] for node in self._nodes())

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Kinds without a node: Ray itself would keep their tasks waiting without end."""
        prefix = "accelerator_type:"
        names = sorted({name.removeprefix(prefix) for node in self._nodes() for name in node["Resources"] if prefix in name})
        present = ", ".join(names) or "no GPU at all"
        return {
            kind: f"the cluster has no node with a {kind} (Ray calls it {profile_of(kind).ray or 'CPU'}; it has {present}); "
            f"start one there with: ray start --address HEAD:6379 --labels {LABEL}={kind}"
            for kind in kinds
            if not self._has(kind)
        }

    def _options(self, task: Task) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0, "num_returns": "streaming"}
        if not needs_gpu(task):
            return options
        options["num_gpus"] = 1
        if self._labelled(task.kind):
            return {**options, "label_selector": {LABEL: task.kind}}
        return {**options, "resources": {self._resource(task.kind): 0.001}}

    def _start(self, task: Task, attempt: int) -> _Flight:
        remote = self._ray.remote(_worker).options(**self._options(task))
        return _Flight(task, remote.remote(asdict(task)), attempt, time.monotonic() + self._limits.deadline)

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """All tasks at once; Ray queues what exceeds the GPUs there are."""
        flights = [self._start(task, 1) for task in tasks]
        waiting: list[tuple[Task, int, float]] = []  # lost, until when a machine may come back
        while flights or waiting:
            ready = []
            if flights:
                ready, _ = self._ray.wait([flight.stream for flight in flights], timeout=LOOK, fetch_local=False)
            else:
                time.sleep(LOOK)
            for flight in [flight for flight in flights if any(flight.stream is stream for stream in ready)]:
                event = self._next(flight)
                if event.state == "lost" and flight.attempt < self._limits.tries:
                    waiting.append((flight.task, flight.attempt, time.monotonic() + self._limits.patience))
                    yield Event(flight.task.id, "started", "", f"{event.detail}; it is started again")
                else:
                    yield event
                if event.final:
                    flights.remove(flight)
            yield from self._overdue(flights)
            yield from self._again(waiting, flights)

    def _next(self, flight: _Flight) -> Event:
        """The next event of a task whose stream is ready. A worker's exception and the loss of its node become events, too."""
        try:
            return Event(**self._ray.get(next(flight.stream), timeout=self._limits.patience))
        except StopIteration:
            return self._lost(flight, "it ended without a result")
        except self._ray.exceptions.RayTaskError as error:
            detail = str(error).strip().splitlines()[-1]
            return Event(flight.task.id, "failed", "", f"{flight.task.kind} {flight.task.model}: {detail[:300]}")
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            return self._lost(flight, type(error).__name__)

    def _lost(self, flight: _Flight, why: str) -> Event:
        detail = f"{flight.task.kind} {flight.task.model}: its node was lost ({why}) at try {flight.attempt}"
        return Event(flight.task.id, "lost", "", detail)

    def _overdue(self, flights: list[_Flight]) -> Iterator[Event]:
        for flight in [flight for flight in flights if time.monotonic() > flight.until]:
            self._ray.cancel(flight.stream, force=True)
            flights.remove(flight)
            detail = (
                f"{flight.task.kind} {flight.task.model}: not done after {self._limits.deadline:.0f} s; its machines are busy"
            )
            yield Event(flight.task.id, "lost", "", f"{detail}, or give it longer with --deadline")

    def _again(self, waiting: list[tuple[Task, int, float]], flights: list[_Flight]) -> Iterator[Event]:
        """Restart lost tasks that have a machine of their kind again; give up on those whose patience has run out."""
        for entry in list(waiting):
            task, attempt, until = entry
            if self._has(task.kind):
                flights.append(self._start(task, attempt + 1))
            elif time.monotonic() > until:
                detail = f"{task.kind} {task.model}: its node was lost, and no other {task.kind} joined the cluster"
                yield Event(task.id, "lost", "", f"{detail}; run the same command again when one is back")
            else:
                continue
            waiting.remove(entry)
