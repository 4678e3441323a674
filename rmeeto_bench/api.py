"""Running and reading benchmarks from Python: `run(plan)`, `resume(folder)`, `load_run(folder)`, `Run.table()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run import runner
from rmeeto_bench.bench.run.controls import Controls, News
from rmeeto_bench.bench.summary.raw import raw_of
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


def run(plan: BenchPlan, folder: str | Path | None = None, tell: Callable[[News], None] = lambda _: None) -> Run:
    """Carry out a plan and write all files of the run to `folder` (default: `runs/<id>`). Raises `RmeetoError`.

    tell: is told what goes on, from several threads where several devices are at work.
    """
    target = Path(folder) if folder is not None else Path("runs") / runner.new_run_id(plan)
    return _written(runner.run(plan, target, Controls(tell)), target)


def resume(folder: str | Path, tell: Callable[[News], None] = lambda _: None) -> Run:
    """Continue a run that was cut short and write its files again. Raises `RmeetoError`."""
    return _written(runner.resume(Path(folder), Controls(tell)), Path(folder))


def _written(record: records.RunRecord, folder: Path) -> Run:
    write_all(record, folder, raw=raw_of(record, folder))
    return Run(record, folder)


def load_run(folder: str | Path) -> Run:
    """A run from its folder. Raises `DataError` if there is none."""
    return Run(records.load(Path(folder)), Path(folder))
