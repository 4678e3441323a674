"""Tasks on Slurm through submitit: a job array per kind of GPU, requeued after preemption, results on the shared file system.

submitit pickles the call into files of the output folder, which only the user's own jobs read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import UnavailableError
from rmeeto_bench.fleet.engines.local import CELLS, Patience, needs_gpu, profile_of
from rmeeto_bench.fleet.host import Event, carry_out
from rmeeto_bench.fleet.plan import Task

JOBS = "slurm"  # folder of submitit's files
LOOK = 2.0  # seconds between two looks at the jobs


class SlurmTask:
    """The function of a job. submitit calls it, and calls `checkpoint` when the job is preempted or times out."""

    def __call__(self, task: Task, folder: Path) -> list[Event]:
        """Carry the task out; the run itself is in the shared folder already."""
        return [event for event in carry_out(task, folder, ship=False) if event.final]

    def checkpoint(self, task: Task, folder: Path) -> Any:
        """The same call again: it continues the run on the same GPU, or starts over on another one."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, task, folder)


class SlurmEngine:
    """`cluster`: slurm, or local (processes on this machine) to try a plan without one. `partition`, `account`: as sbatch
    takes them."""

    def __init__(
        self, limits: Patience, *, cluster: str = "slurm", partition: str | None = None, account: str | None = None
    ) -> None:
        """Raises `UnavailableError` without submitit or without Slurm's commands."""
        try:
            import submitit
        except ImportError:
            raise UnavailableError("--engine slurm needs submitit: pip install 'rmeeto-bench[fleet]'") from None
        logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns at every look where Slurm keeps no accounts
        self._submitit, self._limits, self._cluster = submitit, limits, cluster
        self._extra = {name: value for name, value in (("partition", partition), ("account", account)) if value is not None}
        if cluster == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
            raise UnavailableError("--engine slurm finds no srun here; run this on a login node, or try --cluster local")

    def missing(self, kinds: Sequence[str]) -> Mapping[str, str]:
        """Nothing: sbatch refuses a kind that does not exist, see `run`."""
        return {}

    def _executor(self, task: Task, out: Path) -> Any:
        executor = self._submitit.AutoExecutor(folder=out / JOBS, cluster=self._cluster)
        settings: dict[str, Any] = {"timeout_min": max(1, int(self._limits.deadline // 60))}
        if self._cluster == "slurm":
            settings |= {f"slurm_{name}": value for name, value in self._extra.items()}
            settings |= {"slurm_job_name": f"rmeeto-{task.kind}", "slurm_additional_parameters": {"requeue": True}}
            if needs_gpu(task):
                settings["slurm_gres"] = f"gpu:{profile_of(task.kind).slurm}:1"
        executor.update_parameters(**settings)
        return executor

    def run(self, tasks: Sequence[Task], out: Path) -> Iterator[Event]:
        """An array per kind, all submitted at once; Slurm queues them."""
        flights: list[tuple[Task, Any]] = []
        for kind in dict.fromkeys(task.kind for task in tasks):
            mine = [task for task in tasks if task.kind == kind]
            folders = [out / CELLS / task.id for task in mine]
            try:
                jobs = self._executor(mine[0], out).map_array(SlurmTask(), mine, folders)
            except self._submitit.core.utils.FailedJobError as error:
                reason = str(error).strip().splitlines()[-1]
                for task in mine:
                    asked = f"gres gpu:{profile_of(kind).slurm}" if needs_gpu(task) else "a CPU"
                    detail = f"{kind} {task.model}: sbatch refused {asked} ({reason}); sinfo -o '%G' lists what there is"
                    yield Event(task.id, "lost", "", detail)
                continue
            flights += zip(mine, jobs)
            for task, job in zip(mine, jobs):
                yield Event(task.id, "started", f"job {job.job_id}")
        until = time.monotonic() + self._limits.deadline
        while flights:
            for task, job in list(flights):
                if job.done():
                    flights.remove((task, job))
                    yield self._result(task, job)
                elif time.monotonic() > until:
                    flights.remove((task, job))
                    job.cancel(check=False)
                    detail = f"{task.kind} {task.model}: job {job.job_id} not done after {self._limits.deadline:.0f} s"
                    yield Event(task.id, "lost", "", f"{detail}; its machines are busy, or it needs a longer --deadline")
            if flights:
                time.sleep(LOOK)

    def _result(self, task: Task, job: Any) -> Event:
        try:
            events: list[Event] = job.result()
            return events[-1]
        except self._submitit.core.utils.FailedJobError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return Event(task.id, "lost", "", f"{task.kind} {task.model}: job {job.job_id} was lost ({lines[-1][:200]})")
        except self._submitit.core.utils.UncompletedJobError as error:
            line = str(error).strip().splitlines()[0]
            return Event(task.id, "lost", "", f"{task.kind} {task.model}: job {job.job_id} was lost ({line[:200]})")
