"""One measurement per GPU and machine at a time: a lock per device that all users of the machine share.

The system drops the lock when its process ends, however it ends. Nobody needs to write to a lock file of somebody else: a file
that can be read can be locked.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rmeeto_bench.errors import UnavailableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

VARIABLE = "RMEETO_BENCH_LOCKS"
PLACES = ("/run/lock", "/var/lock", "/dev/shm")
POLL = 0.5  # seconds
SAFELY = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link is followed, no pipe waited for
BUSY = (errno.EACCES, errno.EAGAIN)


def lock_folder() -> Path:
    """Where the locks lie: `RMEETO_BENCH_LOCKS`, or the first of the system's folders that anybody may write to."""
    if os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE])
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    shared = (Path(place) for place in PLACES)
    return next((place for place in shared if os.access(place, os.W_OK | os.X_OK)), Path(tempfile.gettempdir()))


def _descriptor(path: Path) -> int:
    """A file to lock: the one that is there, whoever made it, or a new one for everybody. Raises `OSError`."""
    for how in (os.O_RDWR, os.O_RDONLY):  # a network disk locks only what may be written
        try:
            found = os.open(path, how | SAFELY)
        except FileNotFoundError:
            break
        except OSError as error:
            if how == os.O_RDONLY or error.errno == errno.ELOOP:
                raise
            continue
        if stat.S_ISREG(os.fstat(found).st_mode):
            return found
        os.close(found)
        raise OSError(errno.EINVAL, "it is no plain file")
    try:
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFELY, 0o666)
    except FileExistsError:
        return _descriptor(path)  # somebody made it a moment ago
    os.fchmod(made, 0o666)  # whatever the umask is
    return made


def require_locks() -> None:
    """Raise `UnavailableError` on a system that has no locks of the kind used here."""
    if fcntl is None:
        raise UnavailableError("this system has no file locks (fcntl); rmeeto-bench measures on Linux and other POSIX systems")


def _open(name: str, note: Callable[[str], None]) -> int:
    """The lock file of a name, or this user's own where that cannot be opened. Raises `UnavailableError`."""
    require_locks()
    folder, stem = lock_folder(), f"rmeeto-bench-{re.sub('[^A-Za-z0-9._-]', '_', name)}"
    shared = folder / f"{stem}.lock"
    try:
        return _descriptor(shared)
    except OSError as error:
        reason = error.strerror
    own = folder / f"{stem}-{os.getuid()}.lock"
    try:
        found = _descriptor(own)
    except OSError as error:
        raise UnavailableError(
            f"cannot open the lock {own} ({error.strerror}); set {VARIABLE} to a folder that you can write to"
        ) from error
    note(f"cannot open the lock {shared} ({reason}): runs of other users on {name} are not waited for; have that file removed")
    return found


def _try(descriptor: int) -> bool:
    """Take the lock if it is free. Raises `UnavailableError` where the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise UnavailableError(
            f"the disk of {lock_folder()} has no file locks ({error.strerror}); set {VARIABLE} to a folder on a local disk"
        ) from error
    return True


def _release(descriptor: int) -> None:
    """Let go of the lock. Closing alone would leave it with a child that was forked meanwhile."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def device_lock(device: str, note: Callable[[str], None], should_stop: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock of a device (its id); waits for another run to be done with it, and says so.

    Yields False without the lock if asked to stop while waiting. A CPU has none: it serves many programs anyway, and
    contention is seen while measuring.
    """
    if device == "cpu":
        yield True
        return
    descriptor, waiting = _open(device, note), False
    try:
        while not (held := _try(descriptor)) and not (waiting and should_stop()):
            if not waiting:
                note(f"waiting for {device}: another run of rmeeto-bench on this machine is using it")
                waiting = True
            time.sleep(POLL)
        yield held
    finally:
        _release(descriptor)
