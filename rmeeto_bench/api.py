"""Running and reading benchmarks from Python: `run(plan)`, `resume(folder)`, `load_run(folder)`, `Run.table()`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run import runner
from rmeeto_bench.measure.rounds import RoundsProgress
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


class _Silent:
    """A listener that says nothing."""

    def note(self, text: str) -> None: ...
    def stage(self, device: str, model: str, stage: str) -> None: ...
    def timing(self, device: str, progress: RoundsProgress) -> None: ...
    def evaluating(self, device: str, done: int, total: int) -> None: ...


def run(plan: BenchPlan, folder: str | Path | None = None, listener: runner.Listener | None = None) -> Run:
    """Carry out a plan and write all files of the run to `folder` (default: `runs/<id>`). Raises `RmeetoError`."""
    target = Path(folder) if folder is not None else Path("runs") / runner.new_run_id(plan)
    record = runner.run(plan, target, runner.Controls(listener or _Silent()))
    write_all(record, target)
    return Run(record, target)


def resume(folder: str | Path, listener: runner.Listener | None = None) -> Run:
    """Continue a run that was cut short and write its files again. Raises `RmeetoError`."""
    record = runner.resume(Path(folder), runner.Controls(listener or _Silent()))
    write_all(record, Path(folder))
    return Run(record, Path(folder))


def load_run(folder: str | Path) -> Run:
    """A run from its folder. Raises `DataError` if there is none."""
    return Run(records.load(Path(folder)), Path(folder))
