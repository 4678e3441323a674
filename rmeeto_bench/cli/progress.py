"""What is seen on standard error while a run works: a live line on a terminal, a few plain lines in a log."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rmeeto_bench.measure.rounds import RoundsProgress

EVERY = 15.0  # seconds between two lines in a log


class TerminalListener:
    """A `Listener` for people; use as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task: TaskID | None = None
        self._name = ""
        self._printed = 0.0

    def __enter__(self) -> TerminalListener:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"note: {text}", soft_wrap=True)

    def stage(self, device: str, model: str, stage: str) -> None:
        """Begin a new bar, or print the stage in a log."""
        self._name = f"{device} {model} {stage}"
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(self._name, total=None, note="")
        if not self._console.is_terminal:
            self._console.print(self._name, soft_wrap=True)
        self._printed = time.monotonic()

    def _advance(self, done: int, total: int, note: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > EVERY:
            self._console.print(f"  {done}/{total} {note}", soft_wrap=True)
            self._printed = now

    def timing(self, progress: RoundsProgress) -> None:
        """Warm-up or rounds; the note is the widest interval so far."""
        if progress.stage == "warm-up":
            self._advance(0, progress.rounds, "warming up")
            return
        width = "" if math.isinf(progress.half_width) else f"speed-ups within ±{100 * progress.half_width:.2f} %"
        self._advance(progress.round, progress.rounds, width)

    def evaluating(self, done: int, total: int) -> None:
        """Images through all arms."""
        self._advance(done, total, f"{done} of {total} images")
