"""One process per run folder, on this machine and on every other that shares its disk.

While a process works in a folder it locks the file `run.lock` there by `fcntl.lockf`, which most network disks pass on. It
says who works, and is touched every few seconds: where locks do not reach other machines, a claim from another machine counts
until it was not touched for a while. Clocks are not compared.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.run.locks import BUSY, require_locks
from rmeeto_bench.errors import UnavailableError

try:
    import fcntl
except ImportError:  # Windows, of which `require_locks` speaks
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
BEAT = 5.0  # seconds between two touches
MISSED = 6  # touches that a claim may miss
LONGEST = 4096  # bytes of a claim
_held: set[tuple[int, Path]] = set()  # (pid, file) of locks of this process, which `lockf` does not keep apart


def _machine() -> str:
    """The same for all containers of one kernel, among which locks hold."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _busy(folder: Path, claim: dict[str, Any]) -> UnavailableError:
    who = f" (process {claim['pid']} on {claim['host']})" if claim else ""
    return UnavailableError(f"another process is working on {folder}{who}; wait for it or choose another --out")


def _claim(descriptor: int) -> dict[str, Any]:
    """Who claims the folder; empty for nobody, or for a claim that was cut short."""
    try:
        claim = json.loads(os.pread(descriptor, LONGEST, 0))
        return {"host": str(claim["host"]), "machine": str(claim["machine"]), "pid": int(claim["pid"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _locked(path: Path, folder: Path) -> tuple[int, bool]:
    """The open lock file, and whether its disk knows locks. Raises `UnavailableError` if another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                claim = _claim(descriptor)
                os.close(descriptor)
                raise _busy(folder, claim) from None
            return descriptor, False
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor, True
        os.close(descriptor)  # its holder has just removed it


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def _shows_life(descriptor: int, should_stop: Callable[[], bool]) -> bool:
    """Whether somebody touches the claim while we wait. Raises `KeyboardInterrupt` if asked to stop meanwhile."""
    before, deadline = os.fstat(descriptor).st_mtime_ns, time.monotonic() + MISSED * BEAT
    while time.monotonic() < deadline:
        if should_stop():
            raise KeyboardInterrupt
        time.sleep(BEAT / 10)
        if os.fstat(descriptor).st_mtime_ns != before:
            return True
    return False


class _Heart(threading.Thread):
    """Touches the claim until told to end. A claim that another machine took over ends the work as Ctrl-C does."""

    def __init__(self, descriptor: int, claim: bytes) -> None:
        super().__init__(daemon=True)
        self.descriptor, self.claim, self.ended = descriptor, claim, threading.Event()

    def ours(self) -> bool:
        """Whether the claim is still the one that we wrote."""
        return os.pread(self.descriptor, LONGEST, 0) == self.claim

    def run(self) -> None:
        """Touch, wait, look."""
        while not self.ended.wait(BEAT):
            with suppress(OSError):  # a disk that is away for a moment
                if not self.ours():
                    heard = callable(signal.getsignal(signal.SIGINT))  # a shell's background work ignores Ctrl-C
                    _thread.interrupt_main(signal.SIGINT if heard else signal.SIGTERM)
                    return
                os.utime(self.descriptor)


@contextmanager
def folder_lock(
    folder: Path,
    note: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    name: str = NAME,
) -> Iterator[None]:
    """Hold a folder, which is made if need be, so that two processes never continue the same run.

    name: of the lock file, where a folder holds work that several processes may share out.
    Raises `UnavailableError` if another process holds it.
    """
    require_locks()
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / name
    mine = (os.getpid(), path)
    if mine in _held:
        raise _busy(folder, {})  # opening and closing the file would let go of the lock
    descriptor, locks = _locked(path, folder)
    _held.add(mine)
    heart = None
    try:
        before = _claim(descriptor)
        gone = before.get("machine") == _machine() and (locks or not _alive(before["pid"]))
        if before and not gone:
            note(f"{before['host']} worked on {folder} and did not end there: waiting {MISSED * BEAT:.0f} s for a sign of life")
            if _shows_life(descriptor, should_stop):
                raise _busy(folder, before)
        claim = {"host": platform.node(), "machine": _machine(), "pid": os.getpid(), "token": secrets.token_hex(4)}
        text = json.dumps(claim).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)
        heart = _Heart(descriptor, text)
        heart.start()
        yield
    finally:
        if heart is not None:
            heart.ended.set()
            heart.join()
            if heart.ours():
                path.unlink(missing_ok=True)
        os.close(descriptor)
        _held.discard(mine)
        if made:
            with suppress(OSError):  # something was stored
                folder.rmdir()
