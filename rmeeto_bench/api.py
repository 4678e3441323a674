"""Running and reading benchmarks from Python: `run(plan)`, `measure(steps)`, `resume`, `load_run`, `Run.table()`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run import runner
from rmeeto_bench.bench.run.callables import measure_callables, plan_of
from rmeeto_bench.bench.run.controls import Controls, News
from rmeeto_bench.bench.summary.raw import raw_of
from rmeeto_bench.errors import UsageError
from rmeeto_bench.records import run as records
from rmeeto_bench.report.run.files import write_all
from rmeeto_bench.report.run.summary import sentences
from rmeeto_bench.report.run.tables import to_frame


@dataclass(frozen=True)
class Run:
    """A stored run: its record and its folder."""

    record: records.RunRecord  # what was measured
    folder: Path  # where its files lie

    def table(self) -> pd.DataFrame:
        """One row per arm; an estimate `x` has its 95 % interval in `x_low` and `x_high`."""
        return to_frame(self.record)

    def conclusions(self) -> list[str]:
        """What the run says in words."""
        return sentences(self.record)


def run(
    plan: BenchPlan,
    folder: str | Path | None = None,
    tell: Callable[[News], None] = lambda _: None,
    *,
    arms: Sequence[str] = (),
) -> Run:
    """Carry out a plan and write all files of the run to `folder` (default: `runs/<id>`). Raises `RmeetoError`.

    tell: is told what goes on, from several threads where several devices are at work.
    arms: those of `plan.arms` whose code may be imported; a plan from elsewhere imports nothing by itself.
    """
    target = Path(folder) if folder is not None else Path("runs") / runner.new_run_id(plan)
    return _written(runner.run(plan, target, Controls(tell, arms=tuple(arms))), target)


def resume(folder: str | Path, tell: Callable[[News], None] = lambda _: None, *, arms: Sequence[str] = ()) -> Run:
    """Continue a run that was cut short and write its files again. arms: whose code may be imported. Raises `RmeetoError`."""
    return _written(runner.resume(Path(folder), Controls(tell, arms=tuple(arms))), Path(folder))


def measure(
    steps: Mapping[str, Callable[[], Any] | str],
    folder: str | Path | None = None,
    *,
    baseline: str | None = None,
    batch_size: int = 1,
    preset: str = "quick",
    gpus: str = "none",
) -> Run:
    """Time any callables against each other in interleaved rounds, into a run folder (default: `runs/<id>`).

    steps: name -> a callable that does one step of `batch_size` images and leaves its work enqueued, timed in this process by a
    preset of one process (quick, sustained); or name -> MODULE:FUNCTION as `--arm` takes it, timed in fresh processes by any.
    baseline: name of the arm that the others are compared with (default: the first) · gpus: `none`, or one GPU.
    Raises `RmeetoError`.
    """
    if folder is not None and not isinstance(folder, str | Path):
        raise UsageError(
            f"the second argument is the folder of the run, not a {type(folder).__name__}; a step takes no argument"
        )
    plan = plan_of(steps, baseline=baseline, batch_size=batch_size, preset=preset, gpus=gpus)
    named = [name for name, step in steps.items() if isinstance(step, str)]
    if len(named) == len(steps):
        return run(plan, folder, arms=plan.arms)
    if named:
        raise UsageError(f"callables and names of functions cannot share rounds; give {', '.join(named)} as callables, too")
    target = Path(folder) if folder is not None else Path("runs") / runner.new_run_id(plan)
    callables = {name: step for name, step in steps.items() if not isinstance(step, str)}
    return _written(measure_callables(plan, target, callables, Controls()), target)


def _written(record: records.RunRecord, folder: Path) -> Run:
    write_all(record, folder, raw=raw_of(record, folder))
    return Run(record, folder)


def load_run(folder: str | Path) -> Run:
    """A run from its folder. Raises `DataError` if there is none."""
    return Run(records.load(Path(folder)), Path(folder))
