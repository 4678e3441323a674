"""One measurement per GPU and machine at a time: a lock per device that all users of the machine share.

The system drops the lock when its process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rmeeto_bench.errors import UnavailableError

VARIABLE = "RMEETO_BENCH_LOCKS"
PLACES = ("/run/lock", "/var/lock", "/dev/shm")
POLL = 0.5  # seconds


def lock_folder() -> Path:
    """Where the locks lie: `RMEETO_BENCH_LOCKS`, or the first of the system's folders that anybody may write to."""
    if os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE])
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    shared = (Path(place) for place in PLACES)
    return next((place for place in shared if os.access(place, os.W_OK | os.X_OK)), Path(tempfile.gettempdir()))


def _lock(name: str) -> FileLock:
    return FileLock(lock_folder() / f"rmeeto-bench-{re.sub('[^A-Za-z0-9._-]', '_', name)}.lock", mode=0o666)


@contextmanager
def device_lock(device: str, note: Callable[[str], None], should_stop: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock of a device (its id); waits for another run to be done with it, and says so.

    Yields False without the lock if asked to stop while waiting. A CPU has none: it serves many programs anyway, and
    contention is seen while measuring.
    """
    if device == "cpu":
        yield True
        return
    lock, waiting = _lock(device), False
    while True:
        try:
            lock.acquire(timeout=POLL if waiting else 0)
            break
        except Timeout:
            if not waiting:
                note(f"waiting for {device}: another run of rmeeto-bench on this machine is using it")
                waiting = True
            if should_stop():
                yield False
                return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that two processes never continue the same run. Raises `UnavailableError` if it is held."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = _lock(f"run-{name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UnavailableError(f"another process is working on {folder}; wait for it or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
