"""Errors with a remedy: every message is one line that names what is wrong and what to do about it.

`exit_code` is what the command line returns for the error (README, "Exit codes").
"""

from __future__ import annotations

import re

# What a terminal obeys instead of showing (escape sequences), what turns text around, bytes that are no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text as a terminal may show it: control characters and undecodable bytes become visible escapes."""
    return UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


class RmeetoError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code = 2


class UsageError(RmeetoError):
    """A flag, name or value that cannot be used as given."""


class CheckpointError(RmeetoError):
    """A checkpoint that is missing, damaged, unsafe or of another model."""


class DataError(RmeetoError):
    """A data set that is missing, unreadable or labelled in a way that would give wrong accuracies."""


class MeasurementError(RmeetoError):
    """A measurement that came out invalid, or measured nothing."""

    exit_code = 5


class ArmError(RmeetoError):
    """What went wrong in a program that is not ours; its arm fails, the others go on."""


class UnavailableError(RmeetoError):
    """The machine has no such thing: the GPU asked for, a fast path, disk space."""

    exit_code = 6


class SlowPathError(UnavailableError):
    """Fast kernels that were asked for by name and cannot run on this device."""


class DiskFullError(UnavailableError):
    """No space for the next block: nothing more can be measured, what is stored is kept."""


def in_one_line(error: BaseException) -> str:
    """An error as a part of a sentence."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, ArmError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
