"""Demands on a value that a user gives, each with its one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from rmeeto_bench.errors import UsageError


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise `UsageError` for a value that is none of those allowed."""
    if value not in allowed:
        raise UsageError(f"{name} is one of {', '.join(allowed)}, not {value!r}")


def at_least(least: int, values: dict[str, int | None]) -> None:
    """Raise `UsageError` for a value, given by its name, that is below `least`; None is the default, and passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")


def close_to(name: str, known: Iterable[str]) -> str:
    """` (did you mean A or B?)` for the known names that are most like one that is unknown, or nothing."""
    names = list(known)
    inside = [found for found in names if name.lower() in found]
    close = (inside or difflib.get_close_matches(name.lower(), names))[:3]
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def flag(name: str) -> str:
    """A field as it is typed: `batch_size` is `--batch-size`."""
    return f"--{name.replace('_', '-')}"
