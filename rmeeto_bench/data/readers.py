"""Reader processes, which work in parallel and return their results in order, each through a socket.

The sockets have no name, and no memory is shared: neither /dev/shm nor TMPDIR matters. A reader that dies closes its socket,
so it is noticed at once; one that does nothing for minutes is ended. Readers end with their parent and read none of its input.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import signal
import socket
import struct
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from rmeeto_bench import children
from rmeeto_bench.errors import RmeetoError, UnavailableError
from rmeeto_bench.watchdog import Watchdog

Task = TypeVar("Task")
Result = TypeVar("Result")
SIZE = struct.Struct("<Q")
POLL = 5.0  # seconds between two looks at a reader that is waited for
SILENT = 300.0  # seconds that a reader may use no processor time for a task: a disk that does not answer


class _Pickler(pickle.Pickler):
    """Tensors travel as NumPy arrays, whose bytes are sent as they are."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if type(value) is Tensor else NotImplemented


def _send(link: socket.socket, value: Any) -> None:
    """The number of parts and the size of each, then the parts: the pickle, then its arrays."""
    arrays: list[pickle.PickleBuffer] = []
    text = io.BytesIO()
    _Pickler(text, protocol=5, buffer_callback=arrays.append).dump(value)
    parts = [text.getbuffer(), *(array.raw() for array in arrays)]
    link.sendall(b"".join(SIZE.pack(size) for size in (len(parts), *(part.nbytes for part in parts))))
    for part in parts:
        link.sendall(part)


def _take(link: socket.socket, size: int, look: Callable[[], None]) -> memoryview:
    """The next `size` bytes; `look` is called whenever none come for a while. Raises `EOFError` if the other side is gone."""
    room = np.empty(size, np.uint8).data
    got = 0
    while got < size:
        try:
            count = link.recv_into(room[got:])
        except TimeoutError:
            look()
            continue
        if count == 0:
            raise EOFError
        got += count
    return room


def _receive(link: socket.socket, look: Callable[[], None] = lambda: None) -> Any:
    (count,) = SIZE.unpack(_take(link, SIZE.size, look))
    sizes = [size for (size,) in SIZE.iter_unpack(_take(link, SIZE.size * count, look))]
    text, *arrays = [_take(link, size, look) for size in sizes]
    return pickle.loads(text, buffers=arrays)


class _Reader:
    """A forked process that does `work` for each task it is sent."""

    def __init__(self, work: Callable[[Any], Any], others: list[_Reader]) -> None:
        children.prepare_fork()
        self.link, theirs = socket.socketpair()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads; the child uses none of theirs
            self.pid = os.fork()
        if self.pid == 0:
            try:
                children.bind(parent)
                for link in (self.link, *(other.link for other in others)):
                    link.close()
                _serve(work, theirs)
            finally:
                os._exit(1)
        theirs.close()
        self.link.settimeout(POLL)

    def fate(self) -> str:
        """How the process ended, in words."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        if code == -signal.SIGKILL:
            return "was ended by SIGKILL, by hand or for lack of memory"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def end(self) -> None:
        """End the process at once: it holds nothing that must be kept."""
        self.link.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _serve(work: Callable[[Any], Any], link: socket.socket) -> NoReturn:
    """In the child: answer tasks until the parent closes the socket. Nothing of the parent's buffers is written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
    try:
        while True:
            task = _receive(link)
            try:
                answer: tuple[Any, RmeetoError | None] = (work(task), None)
            except RmeetoError as error:
                answer = (None, error)
            _send(link, answer)
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], count: int) -> Iterator[Result]:
    """`work(task)` for every task, in the order of the tasks, by `count` processes; by this one if `count` is 0.

    Each process works on one task and holds one finished result. Raises what `work` raises where it is an `RmeetoError`, and
    `UnavailableError` for a process that died.
    """
    if count == 0 or not hasattr(os, "fork"):
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    readers: list[_Reader] = []
    try:
        for task in itertools.islice(waiting, count):
            readers.append(_Reader(work, readers))
            _ask(readers[-1], task)
        turns = list(readers)
        while turns:
            reader = turns.pop(0)
            answer, error = _answer(reader)
            if error is not None:
                raise error
            for task in itertools.islice(waiting, 1):
                _ask(reader, task)
                turns.append(reader)
            yield answer
    finally:
        for reader in readers:
            reader.end()


def _died(reader: _Reader) -> UnavailableError:
    return UnavailableError(
        f"a process that decodes images {reader.fate()}; what was done is kept; continue with --resume and fewer workers"
    )


def _ask(reader: _Reader, task: Any) -> None:
    """Hand over a task. Raises `UnavailableError` for a process that died."""
    try:
        _send(reader.link, task)
    except ConnectionError:  # a broken pipe: of the reader, not of our own standard output
        raise _died(reader) from None


def _answer(reader: _Reader) -> tuple[Any, RmeetoError | None]:
    watchdog = Watchdog(reader.pid, SILENT)

    def look() -> None:
        seconds = watchdog.stuck_for()
        if seconds is not None:
            raise UnavailableError(
                f"a process that decodes images did nothing for {seconds / 60:.0f} min; look at the disk they are on, "
                "what was done is kept, go on with --resume"
            )

    try:
        found: tuple[Any, RmeetoError | None] = _receive(reader.link, look)
    except (EOFError, ConnectionError):
        raise _died(reader) from None
    return found
