"""Check values from an untrusted file against their dataclass: types, finite numbers, printable text."""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from rmeeto_bench.errors import UNPRINTABLE, DataError

LONGEST = 100_000  # characters of one text
DEEPEST = 32  # levels of nesting
LARGEST = 10**18  # of a whole number; SQLite and every reader of JSON take less than 2**63


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a plain type; an int is a float too, a bool is neither."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise DataError(f"{where} is {len(value)} characters long; that is no record of a run")
        if UNPRINTABLE.search(value):
            raise DataError(f"{where} holds control characters ({value[:40]!r}); it was tampered with")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where} is {value}, not a number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise DataError(f"{where} is out of range")


def check_any(value: Any, where: str, depth: int = 0) -> None:
    """A JSON value of any shape."""
    if depth > DEEPEST:
        raise DataError(f"{where[:120]} is nested more than {DEEPEST} deep; that is no record of a run")
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_plain(key, f"a name in {where}")
            check_any(entry, f"{where}.{key}"[:120], depth + 1)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            check_any(entry, where, depth + 1)
    else:
        _check_plain(value, where)


def _expected(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)


def _check_container(value: Any, origin: Any, inner: tuple[Any, ...], where: str) -> None:
    """A tuple or a dictionary and what is in it; lists of JSON have become tuples where a field wants one."""
    if not isinstance(value, (origin, list) if origin is tuple else origin):
        raise DataError(f"{where} must be a {origin.__name__}, not {value!r:.60}")
    if isinstance(value, dict):
        for key, entry in value.items():
            check(key, inner[0], f"a name in {where}")
            check(entry, inner[1], f"{where}.{key}"[:120])
        return
    open_ended = len(inner) == 2 and inner[1] is Ellipsis
    if not open_ended and len(value) != len(inner):
        raise DataError(f"{where} must have {len(inner)} entries, not {len(value)}")
    for i, entry in enumerate(value):
        check(entry, inner[0] if open_ended else inner[i], f"{where}[{i}]")


def check(value: Any, kind: Any, where: str) -> None:
    """Compare `value` with the annotation `kind` (a dataclass, a union, a tuple, a dict or a plain type) all the way down.

    Raises `DataError` naming the field, `where` being the name of the whole.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        check_any(value, where)
    elif origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return
        (only,) = [option for option in inner if option is not type(None)]  # records have no other unions
        check(value, only, where)
    elif origin in (tuple, dict):
        _check_container(value, origin, inner, where)
    elif is_dataclass(kind):
        if not isinstance(value, kind):  # type: ignore[arg-type]
            raise DataError(f"{where} must be a {_expected(kind)}, not {value!r:.60}")
        for field in fields(kind):
            check(getattr(value, field.name), _hints(kind)[field.name], f"{where}.{field.name}")  # type: ignore[arg-type]
    elif not _is(value, kind):
        raise DataError(f"{where} must be a {_expected(kind)}, not {value!r:.60}")
    else:
        _check_plain(value, where)
