"""What all live displays on standard error share: bars on a terminal, plain lines in a log."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import Progress, ProgressColumn

from rmeeto_bench.cli import output

EVERY = 15.0  # seconds between two lines in a log


class Live:
    """Progress bars with these columns; they vanish at the end, and a log shows none of them. Use as a context manager."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._console = output.console(error=True)
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._line(f"note: {text}")

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
