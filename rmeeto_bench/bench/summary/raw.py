"""What the report of a stored run shows of its database."""

from __future__ import annotations

from pathlib import Path

from rmeeto_bench.bench.store.untrusted import open_if_kept
from rmeeto_bench.bench.summary.class_changes import all_class_changes
from rmeeto_bench.records.run import Raw, RunRecord


def raw_of(record: RunRecord, folder: Path) -> Raw:
    """The blocks of every device and the changes of every class; nothing where the database was not kept."""
    with open_if_kept(folder) as store:
        if store is None:
            return Raw({})
        return Raw({device.id: store.blocks(device.id) for device in record.devices}, tuple(all_class_changes(store, record)))
