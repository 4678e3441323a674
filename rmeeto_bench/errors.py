"""Errors with a remedy: every message is one line that names what is wrong and what to do about it.

`exit_code` is what the command line returns for the error (README, "Exit codes").
"""

from __future__ import annotations


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


class UnavailableError(RmeetoError):
    """Something the machine lacks: the GPU asked for, a fast path, disk space."""

    exit_code = 6


class SlowPathError(UnavailableError):
    """Fast kernels that were asked for by name and cannot run on this device."""


class DiskFullError(UnavailableError):
    """No space for the next block: nothing more can be measured, what is stored is kept."""


def printable(text: str) -> str:
    """The text for one line of a terminal: control characters, bidirectional marks and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8 (os.fsdecode)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
