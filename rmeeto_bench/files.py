"""Files: atomic writes, the cache folder, and the data that ships with the package."""

from __future__ import annotations

import os
import tempfile
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


def now() -> str:
    """The time as records have it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept between runs: `$XDG_CACHE_HOME/rmeeto-bench/NAME`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmeeto-bench" / name


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def shipped(name: str) -> Path:
    """The folder `profiles` or `paper`. Raises `UnavailableError` for a broken installation."""
    for place in PLACES[name]:
        if place.is_dir():
            return place
    raise UnavailableError(f"the {name} that ship with rmeeto-bench are missing; install the package again")
