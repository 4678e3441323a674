"""Progress of a run on standard error: a live line per device on a terminal, a few plain lines in a log."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rmeeto_bench.bench.run.controls import News
from rmeeto_bench.bench.session.progress import PassProgress
from rmeeto_bench.cli.live import EVERY, Live
from rmeeto_bench.measure.rounds import RoundsProgress


@dataclass
class _Line:
    """The bar of a device, or when its last line was printed."""

    task: TaskID | None  # bar on a terminal; None: lines are printed
    printed: float  # seconds of the monotonic clock at the last line


class RunProgress(Live):
    """Told the news of a run, it shows them to people; use as a context manager. Devices measured at once have a line each."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()

    def __call__(self, news: News) -> None:
        """Show what a run tells."""
        progress = news.progress
        if isinstance(progress, PassProgress):
            self._advance(news.device, progress.done, progress.total, progress.words())
        elif progress is not None:
            self._timing(news.device, progress)
        elif news.device:
            self._stage(news.device, news.model, news.text)
        else:
            self.note(news.text)

    def _stage(self, device: str, model: str, stage: str) -> None:
        """Begin a new bar in place of the device's last, or print the stage in a log."""
        with self._lock:
            before = self._lines.get(device)
            if before is not None and before.task is not None:
                self._progress.remove_task(before.task)
            task = self._progress.add_task(f"{device} {model} {stage}", total=None, note="")
            self._lines[device] = _Line(task, time.monotonic())
        if not self._console.is_terminal:
            self._line(f"{device} {model} {stage}")

    def _advance(self, device: str, done: int, total: int, note: str) -> None:
        with self._lock:
            line = self._lines.setdefault(device, _Line(None, 0.0))
            if line.task is not None:
                self._progress.update(line.task, completed=done, total=total, note=note)
            now = time.monotonic()
            if self._console.is_terminal or now - line.printed <= EVERY:
                return
            line.printed = now
        self._line(f"  {device}: {done}/{total} {note}")

    def _timing(self, device: str, progress: RoundsProgress) -> None:
        """Warm-up or rounds; the note is the widest interval so far, and the rounds that were dropped."""
        if progress.stage == "warm-up":
            self._advance(device, 0, progress.rounds, "warming up")
            return
        width = "" if math.isinf(progress.half_width) else f", speed-ups within ±{100 * progress.half_width:.2f} %"
        dropped = f", {progress.rejected} rounds dropped" if progress.rejected else ""
        self._advance(device, progress.round, progress.rounds, f"rounds{width}{dropped}")
