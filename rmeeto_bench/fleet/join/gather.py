"""Merge run folders and archives into one run's folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rmeeto_bench.errors import DataError
from rmeeto_bench.files import new_file
from rmeeto_bench.fleet.join.archive import ENDINGS, unpack
from rmeeto_bench.fleet.join.merge import Merged, merge
from rmeeto_bench.fleet.join.stores import merge_raw
from rmeeto_bench.records.plausible import MOST, check_counts
from rmeeto_bench.records.run import DATABASE, MANIFEST, RunRecord, load, save


def _open(path: Path, scratch: Path) -> tuple[Path, RunRecord]:
    """The folder and the record behind a folder, a manifest or an archive."""
    if path.is_file() and path.name.endswith(ENDINGS):
        folder = unpack(path, scratch)
        return folder, load(folder)
    return path if path.is_dir() else path.parent, load(path)


def gather(paths: Sequence[Path], out: Path, *, prefer: str | None = None, replace: bool = False) -> tuple[Merged, list[str]]:
    """Merge runs (folders, manifests, archives) into a new run in `out`; returns it and notes for the user.

    `replace`: over the merged run that is there. Nothing is left in `out` if the runs cannot be merged. Raises `DataError`.
    """
    if not replace and ((out / MANIFEST).exists() or (out / DATABASE).exists()):
        raise DataError(f"{out} already holds a run; choose another --out or remove it")
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_open(path, Path(scratch) / str(i)) for i, path in enumerate(paths)]
        merged = merge(runs, prefer=prefer)
        check_counts({name: len(getattr(merged.record, name)) for name in MOST})  # or nothing could read the result
        with tempfile.TemporaryDirectory(dir=scratch) as staging:
            raw_notes = merge_raw(merged.taken, Path(staging))
            with new_file(out / DATABASE) as target:
                shutil.copyfile(Path(staging) / DATABASE, target)
        save(merged.record, out)
    return merged, [*merged.notes, *raw_notes]
