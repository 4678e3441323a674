"""What is seen of an accuracy pass on standard error: a live line on a terminal, a few plain lines in a log."""

from __future__ import annotations

import time

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn

from rmeeto_bench.bench.session.accuracy_pass import PassProgress
from rmeeto_bench.cli.live import EVERY, Live


def running(progress: PassProgress) -> str:
    """`top-1 % r0 79.1 r11 78.4, 3.2 min left`."""
    accuracies = " ".join(f"{name.rpartition('/')[2]} {progress.top1(name):.1f}" for name in progress.correct)
    left = progress.seconds_left
    return f"top-1 % {accuracies}, " + (f"{left / 60:.1f} min left" if left >= 60 else f"{left:.0f} s left")


class PassListener(Live):
    """A `Listener` of evaluations for people; use as a context manager."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(16),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        self._task: TaskID | None = None
        self._printed = 0.0

    def stage(self, device: str, model: str, stage: str) -> None:
        """Begin a new bar under a line that says what it is of."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._line(f"{device}: {model} {stage}")
        self._task = self._progress.add_task("", total=None, note="")
        self._printed = time.monotonic()

    def passing(self, progress: PassProgress) -> None:
        """Images through all arms, with the accuracy of each so far and the time left."""
        if self._task is not None:
            self._progress.update(self._task, completed=progress.done, total=progress.total, note=running(progress))
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > EVERY:
            self._line(f"  {progress.done}/{progress.total} {running(progress)}")
            self._printed = now
