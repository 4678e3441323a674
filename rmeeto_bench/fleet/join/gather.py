"""Merge run folders and archives into one run's folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rmeeto_bench.errors import DataError
from rmeeto_bench.files import new_file
from rmeeto_bench.fleet.join.archive import run_at
from rmeeto_bench.fleet.join.merge import Merged, merge
from rmeeto_bench.fleet.join.stores import merge_raw
from rmeeto_bench.records.plausible import MOST, check_counts
from rmeeto_bench.records.run import DATABASE, MANIFEST, save


def gather(paths: Sequence[Path], out: Path, *, prefer: str | None = None, replace: bool = False) -> tuple[Merged, list[str]]:
    """Merge runs (folders, manifests, archives) into a new run in `out`; returns it and notes for the user.

    `replace`: over the merged run that is there. Nothing is left in `out` if the runs cannot be merged. Raises `DataError`.
    """
    if not replace and ((out / MANIFEST).exists() or (out / DATABASE).exists()):
        raise DataError(f"{out} already holds a run; choose another --out or remove it")
    with ExitStack() as opened:
        runs = [opened.enter_context(run_at(path)) for path in paths]
        merged = merge(runs, prefer=prefer)
        check_counts({name: len(getattr(merged.record, name)) for name in MOST})  # or nothing could read the result
        with tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as staging:
            raw_notes = merge_raw(merged.taken, Path(staging))
            with new_file(out / DATABASE) as target:
                shutil.copyfile(Path(staging) / DATABASE, target)
        save(merged.record, out)
    return merged, [*merged.notes, *raw_notes]
