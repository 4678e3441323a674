"""Files: atomic writes, the cache folder, and the data that ships with the package."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rmeeto_bench.errors import UnavailableError

PACKAGE = Path(__file__).parent
PLACES = {
    "profiles": (PACKAGE / "_profiles", PACKAGE.parent / "profiles"),
    "paper": (PACKAGE / "_paper", PACKAGE.parent / "results" / "paper"),
}


def short(path: Path) -> str:
    """A path as people want to read it: below the current folder without that folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def plain(name: str) -> str:
    """A name that may be part of a folder's, cut where it is long."""
    return re.sub(r"[^\w.+-]", "-", name)[:80]


def now() -> str:
    """The time as records have it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept between runs: `$XDG_CACHE_HOME/rmeeto-bench/NAME`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmeeto-bench" / name


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, with its ending, that takes its place when the block ends well.

    A reader sees the old file or the new one, never half of it; a full disk leaves the old one; a link is replaced, and what
    it points to stays as it is. What is no file (/dev/null, /dev/stdout, a pipe) is written to: root could replace it. An
    `OSError` names `path`.
    """
    stream = path.exists() and not (path.is_file() or path.is_dir())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = None if stream else path.parent
        handle, name = tempfile.mkstemp(dir=place, prefix=f".{path.name[:60]}.", suffix=path.suffix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if stream:
            path.write_bytes(temporary.read_bytes())
            temporary.unlink()
        else:
            temporary.chmod(0o644)
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text or bytes through `new_file`. Bytes of a file name that are no UTF-8 become visible escapes."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def shipped(name: str) -> Path:
    """The folder `profiles` or `paper`. Raises `UnavailableError` for a broken installation."""
    for place in PLACES[name]:
        if place.is_dir():
            return place
    raise UnavailableError(f"the {name} that ship with rmeeto-bench are missing; install the package again")
