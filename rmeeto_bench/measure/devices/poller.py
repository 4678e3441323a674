"""Sample NVML in another process, so that sampling takes no lock and no cycle from the timed program during a block.

Run as `python -m rmeeto_bench.measure.devices.poller GPU-...`. It samples between the lines `start` and `stop` on its standard
input, answers a `stop` with one JSON line of samples, and ends with its input, even if the parent was killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from io import RawIOBase
from typing import IO, Any

from rmeeto_bench import children

INTERVAL = 0.2  # seconds between two samples
PATIENCE = 20.0  # seconds to wait for an answer, the first being delayed by imports, before giving the process up
FAREWELL = 5.0  # seconds for it to end by itself
Sample = dict[str, Any]


def sample(nvml: Any, handle: Any, now: float) -> Sample:
    """One look at a GPU: `time` (s), `sm_mhz`, `memory_mhz`, `power_mw`, `temperature_c`, `reasons` (bits), `pids`.

    None where the driver does not tell.
    """
    reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
        nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None
    )  # the old name goes with CUDA 14, the new one is missing before CUDA 12
    questions: dict[str, Callable[[], Any]] = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "power_mw": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "reasons": lambda: None if reasons is None else reasons(handle),
        "pids": lambda: [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)],
    }
    found: Sample = {"time": now}
    for name, question in questions.items():
        try:
            found[name] = question()
        except nvml.NVMLError:
            found[name] = None
    return found


def serve(source: RawIOBase | IO[bytes], answer: IO[str], look: Callable[[float], Sample]) -> None:
    """The loop of the sampling process: obey `start` and `stop` until `source` ends. `source` must be a real file."""
    samples: list[Sample] = []
    active = False
    while True:
        ready, _, _ = select.select([source], [], [], INTERVAL if active else None)
        if ready:
            word = source.readline()
            if not word:
                return
            if word.strip() == b"start":
                samples, active = [], True
            else:
                active = False
                samples.append(look(time.monotonic()))  # the end of the block, so that short ones have a sample too
                answer.write(json.dumps(samples) + "\n")
                answer.flush()
                continue
        samples.append(look(time.monotonic()))


class Poller:
    """The parent's end of the sampling process. `command` stands in for the real one in tests."""

    def __init__(self, uuid: str, *, command: Sequence[str] = ()) -> None:
        words = list(command) or children.python("rmeeto_bench.measure.devices.poller", uuid)
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=children.variables(),
        )  # a session of its own: Ctrl-C is for the parent, which closes the pipe when it is done

    def _say(self, word: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.write(word)
            except OSError:
                self._process = None

    def start(self) -> None:
        """Begin sampling."""
        self._say(b"start\n")

    def stop(self) -> list[Sample] | None:
        """End sampling; the samples since `start`, None if the process is gone."""
        self._say(b"stop\n")
        line = self._line()
        if line is None:
            self.close()
            return None
        found: list[Sample] = json.loads(line)
        return found

    def _line(self) -> bytes | None:
        if self._process is None or self._process.stdout is None:
            return None
        got = b""
        while not got.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            piece = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                return None
            got += piece
        return got

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(uuid: str) -> None:
    """Sample one GPU for the parent process, at low priority."""
    import pynvml

    os.nice(10)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    with os.fdopen(0, "rb", buffering=0) as source:  # unbuffered, as `select` does not see into a buffer
        serve(source, sys.stdout, lambda now: sample(pynvml, handle, now))


if __name__ == "__main__":
    main(sys.argv[1])
