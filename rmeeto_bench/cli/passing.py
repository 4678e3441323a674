"""What is seen of an accuracy pass on standard error: a live line on a terminal, a few plain lines in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rmeeto_bench.bench.accuracy import PassProgress

EVERY = 15.0  # seconds between two lines in a log


def running(progress: PassProgress) -> str:
    """`top-1 % r0 79.1 r11 78.4, 3.2 min left`."""
    accuracies = " ".join(f"{name.rpartition('/')[2]} {progress.top1(name):.1f}" for name in progress.correct)
    left = progress.seconds_left
    return f"top-1 % {accuracies}, " + (f"{left / 60:.1f} min left" if left >= 60 else f"{left:.0f} s left")


class PassListener:
    """A `Listener` of evaluations for people; use as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(16), TextColumn("{task.fields[note]}"))
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task: TaskID | None = None
        self._printed = 0.0

    def __enter__(self) -> PassListener:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"note: {text}", soft_wrap=True, markup=False)

    def stage(self, device: str, model: str, stage: str) -> None:
        """Begin a new bar under a line that says what it is of."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._console.print(f"{device}: {model} {stage}", soft_wrap=True, markup=False)
        self._task = self._progress.add_task("", total=None, note="")
        self._printed = time.monotonic()

    def passing(self, progress: PassProgress) -> None:
        """Images through all arms, with the accuracy of each so far and the time left."""
        if self._task is not None:
            self._progress.update(self._task, completed=progress.done, total=progress.total, note=running(progress))
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > EVERY:
            self._console.print(f"  {progress.done}/{progress.total} {running(progress)}", soft_wrap=True, markup=False)
            self._printed = now
