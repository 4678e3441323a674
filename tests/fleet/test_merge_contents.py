"""Runs that are merged may not hold different things under one name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.merge import Taken
from rmeeto_bench.fleet.join.stores import merge_raw


def stored(folder: Path, labels: list[int], arm: str, name: str = "val") -> Taken:
    with Store.create(folder) as store, store.transaction() as connection:
        seen = np.array(labels, "<i2").tobytes()
        connection.execute("INSERT INTO seen VALUES('cpu', 'd', 0, ?, ?)", (seen, bytes(24)))
        connection.execute("INSERT INTO data_set VALUES('d', ?, 3, 10)", (name,))
    return Taken(folder, {("cpu", arm): "cpu@host"})


def test_other_labels_under_one_name_are_refused(tmp_path: Path) -> None:
    first = stored(tmp_path / "a", [1, 2, 3], "vim_nano/r0")
    second = stored(tmp_path / "b", [1, 2, 4], "vim_nano/r5")
    with pytest.raises(DataError, match="b/run.sqlite: table seen has another labels under device cpu@host, data d, start 0"):
        merge_raw([first, second], tmp_path / "out")


def test_equal_contents_and_other_folders_of_one_set_are_merged(tmp_path: Path) -> None:
    first = stored(tmp_path / "a", [1, 2, 3], "vim_nano/r0")
    second = stored(tmp_path / "b", [1, 2, 3], "vim_nano/r5", name="data/val")
    assert merge_raw([first, second], tmp_path / "out") == []
