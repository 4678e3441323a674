"""The noise of a device: the same model against itself, in several fresh processes."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING

from rmeeto_bench import children
from rmeeto_bench.compare.programs import end
from rmeeto_bench.compare.turn_server import Turnstile
from rmeeto_bench.measure.turns import VARIABLE
from rmeeto_bench.models.sizes import config

if TYPE_CHECKING:
    from rmeeto_bench.compare.noise import NoiseProfile
    from rmeeto_bench.measure.devices.device import Device
    from rmeeto_bench.measure.rounds import Block, TimedArm


@dataclass(frozen=True)
class NoiseJob:
    """What one session needs to know; it crosses to a fresh process."""

    spec: str  # device, as `open_device` takes it
    session: int  # number, from 0
    model: str  # name of the model
    batch_size: int  # images
    rounds: int  # rounds to measure
    block_seconds: float  # least seconds of a block
    seed: int  # of the orders of the rounds
    allow_busy: bool  # measure even if others use the device


def _arms(device: Device, job: NoiseJob) -> list[TimedArm]:
    """The same program three times: as it is, as a second copy, and the first again without telemetry."""
    from rmeeto_bench.bench.plan.estimate import profile_of, true_seconds
    from rmeeto_bench.bench.plan.plan import BenchPlan, cells
    from rmeeto_bench.compare.noise import ARM, TWIN, UNOBSERVED
    from rmeeto_bench.measure.devices.simulated import SimDevice
    from rmeeto_bench.measure.rounds import TimedArm

    if isinstance(device, SimDevice):
        (cell,) = cells(BenchPlan(models=(job.model,), rs=(0,)), job.model)
        seconds = true_seconds(cell, profile_of(device), job.batch_size)
        first, second = device.step(ARM, seconds), device.step(TWIN, seconds)
        return [
            TimedArm(ARM, first, job.batch_size),
            TimedArm(TWIN, second, job.batch_size),
            TimedArm(UNOBSERVED, first, job.batch_size, observed=False),
        ]
    import torch

    from rmeeto_bench.bench.session.built_arm import Step
    from rmeeto_bench.models.zoo import create_model

    sized = config(job.model)
    generator = torch.Generator().manual_seed(job.seed)
    dtype = torch.float16 if device.kind == "cuda" else torch.float32
    shape = (job.batch_size, *sized.input_shape)
    images = torch.randn(shape, generator=generator).to(device.torch_device, dtype)
    steps = []
    for _ in range(2):
        torch.manual_seed(job.seed)
        steps.append(Step(create_model(job.model).to(device.torch_device, dtype).eval().freeze(), [images]))
    return [
        TimedArm(ARM, steps[0], job.batch_size),
        TimedArm(TWIN, steps[1], job.batch_size),
        TimedArm(UNOBSERVED, steps[0], job.batch_size, observed=False),
    ]


def run_session(job: NoiseJob) -> list[Block]:
    """Measure one session in this process; its blocks."""
    from rmeeto_bench.compare.noise import ARM
    from rmeeto_bench.measure.devices.device import find_devices
    from rmeeto_bench.measure.protocol import THROTTLED
    from rmeeto_bench.measure.rounds import DEFAULT, Watch, measure

    (device,) = find_devices(job.spec, seed=job.seed, session=job.session)
    blocks: list[Block] = []
    protocol = replace(
        DEFAULT,
        block_seconds=job.block_seconds,
        warmup_seconds=10 * job.block_seconds,
        warmup_limit=120 * job.block_seconds,
        min_rounds=job.rounds,
        max_rounds=job.rounds,
        target=0.0,
        seed=job.seed,
        time_limit=math.inf,
        reject=(THROTTLED,) if job.allow_busy else DEFAULT.reject,
    )
    measure(device, _arms(device, job), ARM, protocol, Watch(blocks.append), session=job.session)
    return blocks


def _blocks(device: Device, arguments: argparse.Namespace) -> list[Block]:
    """All sessions of a device: each in a fresh process, but for a simulated one, which has none to speak of.

    On a CPU two processes at a time take turns block by block, as those of a gate do.
    """
    spec = "none" if device.kind == "cpu" else device.id.removeprefix("cuda:")
    batch = arguments.batch_size or (32 if device.kind == "cpu" else 128)
    a = arguments
    given = (a.model, batch, a.rounds, a.block_seconds, a.seed, a.allow_busy)
    jobs = [NoiseJob(spec, number, *given) for number in range(arguments.processes)]
    if device.kind == "sim":
        return [block for job in jobs for block in run_session(job)]
    together = 2 if device.kind == "cpu" else 1
    found: list[Block] = []
    for start in range(0, len(jobs), together):
        group = jobs[start : start + together]
        numbers = " and ".join(str(job.session + 1) for job in group)
        print(f"{device.name}: process {numbers} of {len(jobs)}", file=sys.stderr)
        found += _in_fresh_processes(group)
    return found


def _in_fresh_processes(jobs: Sequence[NoiseJob]) -> list[Block]:
    """The blocks of sessions that a child each measures, in turns; the children end with this process."""
    turnstile = Turnstile([str(job.session) for job in jobs])
    running: dict[str, Child] = {}
    try:
        for job in jobs:
            variables = {VARIABLE: turnstile.variable(str(job.session))} if len(jobs) > 1 else {}
            running[str(job.session)] = Child.start(job, variables)
        turnstile.serve({name: child.process for name, child in running.items()})
        return [block for child in running.values() for block in child.blocks()]
    finally:
        turnstile.close()
        for child in running.values():
            child.end()


@dataclass
class Child:
    """A process that measures one session."""

    process: subprocess.Popen[bytes]  # the process
    answer: IO[bytes]  # file of what it says
    errors: IO[bytes]  # file of its standard error

    @classmethod
    def start(cls, job: NoiseJob, variables: Mapping[str, str]) -> Child:
        """Give a fresh process its job."""
        answer, errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115  # a pipe that nobody reads would fill
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(asdict(job)).encode())
            given.seek(0)
            command = children.python("rmeeto_bench.compare.calibrate")
            environment = {**children.variables(), **variables}
            process = subprocess.Popen(command, stdin=given, stdout=answer, stderr=errors, env=environment)
        return cls(process, answer, errors)

    def blocks(self) -> list[Block]:
        """What the process that has ended measured. Raises its error."""
        from rmeeto_bench import errors
        from rmeeto_bench.measure.rounds import Block

        for file in (self.answer, self.errors):
            file.seek(0)
        try:
            answer = json.loads(self.answer.read())
        except ValueError:
            last = (self.errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            code = self.process.returncode
            raise errors.MeasurementError(f"a process of the calibration ended with code {code}: {last}") from None
        if isinstance(answer, dict):
            raise getattr(errors, answer["kind"])(answer["message"])
        return [Block(**block) for block in answer]

    def end(self) -> None:
        """Close the files, and end the process if it still runs."""
        end(self.process)
        self.answer.close()
        self.errors.close()


def main() -> None:
    """The child: a job on standard input, its blocks or its error on standard output, as JSON."""
    from rmeeto_bench.errors import RmeetoError

    job = NoiseJob(**json.loads(sys.stdin.read()))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)  # what libraries print
        try:
            json.dump([asdict(block) for block in run_session(job)], answer)
        except RmeetoError as error:
            json.dump({"kind": type(error).__name__, "message": str(error)}, answer)


def calibrate(device: Device, arguments: argparse.Namespace) -> NoiseProfile:
    """The noise profile of one device. Raises `MeasurementError` where too little could be measured."""
    from datetime import UTC, datetime

    from rmeeto_bench import __version__
    from rmeeto_bench.compare.noise import NoiseProfile, estimate_noise

    noise = estimate_noise(_blocks(device, arguments), turns=device.kind == "cpu")
    return NoiseProfile(device.id, device.name, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", __version__, noise)


if __name__ == "__main__":
    main()
