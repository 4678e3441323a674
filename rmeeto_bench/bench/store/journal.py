"""How SQLite keeps a run safe on this disk: a write-ahead log where it works, a rollback journal elsewhere."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Kinds of disks that several machines share: SQLite's log needs memory that all of its processes share.
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuseblk"}


def disk_of(folder: Path) -> str:
    """The kind of file system that a folder lies on, as ext4 or nfs4; empty where the system does not tell."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place, kind, longest = folder.resolve(), "", 0
    for line in lines:
        before, _, after = line.partition(" - ")
        escaped = before.split()[4].encode("utf-8", "surrogateescape")  # a space is \\040
        mounted = Path(os.fsdecode(escaped.decode("unicode_escape").encode("latin-1")))
        if place.is_relative_to(mounted) and len(mounted.parts) >= longest:
            kind, longest = after.split()[0], len(mounted.parts)
    return kind


def is_network(kind: str) -> bool:
    """Whether a file system may be shared by several machines."""
    return kind in NETWORK or (kind.startswith("fuse") and kind not in LOCAL_FUSE)


def choose_journal(database: Path) -> str:
    """Set the journal of a run's database, before it is used. Returns a sentence where it is not the usual one, else nothing.

    Raises `sqlite3.Error`.
    """
    folder = database.parent
    kind = disk_of(folder)
    if is_network(kind):
        _set(database, "DELETE", exclusive=True)
        return f"{folder} is on a network disk ({kind}): the run is stored with a rollback journal"
    try:
        mode = _set(database, "WAL")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        mode = _set(database, "DELETE", exclusive=True)
    return "" if mode == "wal" else f"SQLite keeps no write-ahead log in {folder}: the run is stored with a rollback journal"


def _set(database: Path, mode: str, *, exclusive: bool = False) -> str:
    """The journal mode that SQLite sets. A log is read without shared memory by a process that is alone with it."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        if exclusive:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        found: str = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
        connection.execute("BEGIN IMMEDIATE")  # a log that cannot be kept shows when it is first written to
        connection.execute("ROLLBACK")
        return found
