"""A stored run to give away: checked, in one file, and without the names of the machine and of its folders."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.store.untrusted import expected_tables, open_stored, private_copy
from rmeeto_bench.bench.summary.record import assemble
from rmeeto_bench.errors import DataError
from rmeeto_bench.files import new_file
from rmeeto_bench.fleet.join.archive import pack, run_at
from rmeeto_bench.records.run import DATABASE, MERGED_FROM, Arm, RunRecord, from_json, load, save, to_json

# An absolute path in a text: at its start, or behind a space, a quote or a sign; addresses of the web are none. Words after a
# space that hold a slash belong to it, too: folders may have spaces in their names.
PART = r"[^\s'\",;:()<>|]"
PATH = re.compile(rf"(?<![^\s'\"(=,:;<|])(?<!http:)(?<!https:)(?:~?/|[A-Za-z]:[\\/]){PART}+(?: {PART}*[\\/]{PART}*)*")
ARM = re.compile(r"[\w.:-]+/r\d+")
UNMEASURED = ("verdict_detail", "paper", "gflops")  # which another version may say in another way
TOLERANCE = 1e-6  # relative, between the numbers of a manifest and those derived anew
ALIAS = "machine-"  # and eight digits, the same for every run of a machine


def check_contribution(record: RunRecord) -> None:
    """Raise `DataError` for a run that is no finished measurement of one machine."""
    if MERGED_FROM in record.plan:
        raise DataError(f"{record.run_id} was merged from others; contribute the runs that were measured, one by one")
    if record.status != "complete":
        raise DataError(f"{record.run_id} is {record.status}; finish it with resume, then contribute it")
    if all(device.kind == "sim" for device in record.devices):
        raise DataError(f"{record.run_id} was simulated; only measurements can be contributed")
    if record.environment.get("variables", {}).get("TRITON_INTERPRET") and any(arm.backend == "triton" for arm in record.arms):
        raise DataError(f"{record.run_id} ran its kernels in Triton's interpreter; unset TRITON_INTERPRET and measure again")
    if not any(arm.known for arm in record.arms):
        raise DataError(f"{record.run_id} has no result; measure again with rerun")


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "..."


def _cleaner(host: str | None) -> Callable[[str], str]:
    """What replaces a host's name by its alias, and a path by its last part, in a text."""
    name = re.compile(rf"(?<![\w.-]){re.escape(host)}(?![\w-])") if host and not host.startswith(ALIAS) else None
    alias = ALIAS + hashlib.sha256((host or "").encode()).hexdigest()[:8]

    def clean(text: str) -> str:
        named = text if name is None else name.sub(alias, text)
        return PATH.sub(lambda found: _last(found.group()), named)

    return clean


def _walk(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _walk(entry, clean) for name, entry in value.items()}
    return [_walk(entry, clean) for entry in value] if isinstance(value, list) else value


def _word(word: str) -> str:
    """A word of a command line, its path cut to the last part; `vim_small/r5` and `images/s` are no paths."""
    flag, sign, value = word.rpartition("=")
    return flag + sign + (_last(value) if "/" in value and not ARM.fullmatch(value) else value)


def without_names(record: RunRecord) -> RunRecord:
    """The record with an alias for its host, and without folders."""
    value = _walk(json.loads(to_json(record)), _cleaner(record.environment.get("host")))
    value["argv"] = [_word(word) for word in value["argv"]]
    return from_json(json.dumps(value))


def _clean_database(path: Path, clean: Callable[[str], str]) -> None:
    """The same for the texts of a database, which then keeps nothing of the old ones."""

    def cleaned(text: str) -> str:
        if not text.startswith(("{", "[")):
            return clean(text)
        return json.dumps(_walk(json.loads(text), clean), sort_keys=True)

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("cleaned", 1, cleaned, deterministic=True)
        for table, columns in expected_tables().items():
            for column in columns:
                connection.execute(f"UPDATE OR REPLACE {table} SET {column}=cleaned({column}) WHERE typeof({column})='text'")
        connection.execute("VACUUM")


def contribute(folder: Path, out: Path, *, keep_names: bool) -> RunRecord:
    """Write a run's archive to `out`, read it again as a stranger would, and return its record.

    Raises `DataError` for a run that is not fit, or a file that is there already.
    """
    record = load(folder)
    check_contribution(record)
    if out.exists():
        raise DataError(f"{out} is there already; choose another --out or remove it")
    with tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as scratch:
        staged = Path(scratch) / "run"
        staged.mkdir()
        save(record if keep_names else without_names(record), staged)
        with private_copy(folder) as copy:
            shutil.copyfile(copy, staged / DATABASE)
        if not keep_names:
            _clean_database(staged / DATABASE, _cleaner(record.environment.get("host")))
        with new_file(out) as target:
            target.write_bytes(pack(staged))
    with opened(out) as (_, read):
        return read


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Path, RunRecord]]:
    """The unpacked folder and the record of a contributed archive, whose numbers follow from its raw blocks and predictions.

    Raises `DataError` for one that is not fit.
    """
    with run_at(archive) as (folder, record):
        check_contribution(record)
        if not (folder / DATABASE).is_file():
            raise DataError(f"{archive} holds no {DATABASE}, so nothing to check its numbers by; pack it with contribute")
        with open_stored(folder) as store:
            again = assemble(record, BenchPlan.from_dict(record.plan), store, {}, {})
        _check_same(archive, record.arms, again.arms)
        if not _close(record.sweep, again.sweep):
            raise DataError(f"{archive}: its batch sizes do not follow from its raw rounds; pack the run again")
        yield folder, record


def _check_same(archive: Path, told: tuple[Arm, ...], found: tuple[Arm, ...]) -> None:
    """Raise `DataError` unless the arms of a manifest are those that its database gives."""
    derived = {(arm.device, arm.arm): arm for arm in found}
    for arm in told:
        again = derived.pop((arm.device, arm.arm), None)
        wrong = [one.name for one in fields(Arm) if again is None or not _same(arm, again, one.name)]
        if wrong:
            raise DataError(
                f"{archive}: {wrong[0]} of {arm.arm} does not follow from its raw rounds and predictions; "
                "pack the run again with the version of rmeeto-bench that measured it"
            )
    if derived:
        raise DataError(f"{archive}: {next(iter(derived))[1]} was measured, but is not in its manifest; pack it again")


def _same(told: Arm, found: Arm, name: str) -> bool:
    """Whether a field says the same in both."""
    return name in UNMEASURED or _close(getattr(told, name), getattr(found, name))


def _close(first: Any, second: Any) -> bool:
    """The same, numbers to within rounding, in whatever holds them."""
    if is_dataclass(first) and is_dataclass(second):
        return _close(vars(first), vars(second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_close(first[key], second[key]) for key in first)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_close, first, second))
    if isinstance(first, float) and isinstance(second, (int, float)):
        return math.isclose(first, second, rel_tol=TOLERANCE)
    return bool(first == second)


def names_in(record: RunRecord) -> bool:
    """Whether a record still names its host or folders."""
    return without_names(record) != record
