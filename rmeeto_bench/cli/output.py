"""What every command prints goes through here: text stays text, and no terminal or log can stop it.

Names, paths and metadata are never markup. A character that the stream cannot show is replaced, control characters become
visible escapes, and a useless width (COLUMNS=0) counts as none.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import select
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.errors import printable
from rmeeto_bench.files import write_atomic

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {"—": "-", "–": "-", "·": "-", "±": "+-", "Δ": "d", "×": "x", "…": "...", "↑": "^", "↓": "v", "’": "'", "⚠": "!"}
WIDEST = 500  # columns; more are no terminal


def _replace(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the nearest ASCII text, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, c.encode("unicode_escape").decode("ascii")) for c in missing), error.end


def prepare() -> None:
    """Let standard output and standard error replace what they cannot encode; let warnings be shown, never raised.

    A warning of a library that becomes an error (`PYTHONWARNINGS=error`) would end a run after everything was measured, so
    neither this process nor its children take such an option.
    """
    codecs.register_error("rmeeto-replace", _replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="rmeeto-replace")
    if any(option.startswith("error") for option in sys.warnoptions):
        sys.warnoptions[:] = [option for option in sys.warnoptions if not option.startswith("error")]
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.simplefilter("default")


def say(text: object = "", *, error: bool = False) -> None:
    """One line of plain text, on standard output or standard error."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def reader_is_gone() -> bool:
    """Whether nobody reads standard output or standard error any longer, as after `| head`; what follows there is dropped."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or the interpreter complains at exit
            gone = True
    return gone


def console(*, error: bool = False) -> Console:
    """For tables and long lines: nothing in a text is markup, an emoji code or highlighted."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        """Shows every string, those in the cells of tables too, as the text it is."""

        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(printable(text), **settings)

        def on_broken_pipe(self) -> None:
            """Leave it to `main`, which knows whose pipe broke; rich would end the program with 1."""
            raise

    return PlainConsole(stderr=error, highlight=False, markup=False, emoji=False, width=_width())


def _width() -> int | None:
    """Columns where COLUMNS is set but is no width; None leaves it to the terminal."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and not 0 < int(asked) <= WIDEST:
        return max(1, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))
    return None


def write_json_text(text: str, target: str | None) -> bool:
    """Write JSON to a file, or to standard output for `-`; returns whether standard output is taken by it.

    On a stream that is not UTF-8 every character stays readable to a parser, as an escape of JSON.
    """
    if target is None:
        return False
    if target == "-":
        unicode = (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")
        sys.stdout.write(text if unicode else re.sub(r"[^\x00-\x7f]", lambda c: json.dumps(c.group())[1:-1], text))
        return True
    write_atomic(Path(target), text)
    return False


def write_json(value: Any, target: str | None) -> bool:
    """The same of a value."""
    return write_json_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", target)
