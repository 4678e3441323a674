"""How gpu_check times: by the package's own loop, a single kernel many times over within a graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from predicted import Card

from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.measure.protocol import TimedArm, TimingProtocol, Watch
from rmeeto_bench.measure.rounds import measure
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.records.run import Block

REPEATS = 20  # of a kernel within a graph: one takes 12 us, and a call of Python 40
PROTOCOL = TimingProtocol("check", 0.1, 1, 5, 5, 0.5, 1.5, 20.0, 9, reject=())


@dataclass(frozen=True)
class Bench:
    """The machine and the sizes: batch, depth and blocks are small in a rehearsal."""

    place: Device  # that is measured
    dtype: torch.dtype  # of weights and inputs
    batch: int  # images
    depth: int  # blocks of a model
    size: int  # pixels of an image's side
    dim: int  # channels of a block alone
    protocol: TimingProtocol  # how long is measured
    models: tuple[str, ...]  # names of WIDTHS
    ratios: tuple[int, ...]  # tokens that a merge removes
    shares: tuple[float, ...]  # of an image's tokens, at which the scan alone is timed
    clocks: list[float] = field(default_factory=list)  # mean MHz of each block so far

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        return self.place.torch_device

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return (self.size // 16) ** 2 + 1

    @property
    def gpu(self) -> bool:
        """Whether there are graphs."""
        return self.place.kind == "cuda"

    @property
    def card(self) -> Card | None:
        """What predictions know of this GPU at the clock it keeps; None for what no profile describes."""
        profile = match_profile(self.place.name, None) if self.gpu else None
        return Card(profile, statistics.median(self.clocks) if self.clocks else None) if profile else None

    def draw(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Seeded noise in the working precision."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

    def times(self, steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Median seconds of each step over the rounds of the package's own loop."""
        blocks: list[Block] = []
        arms = [TimedArm(name, step, step.times if isinstance(step, Repeated) else 1) for name, step in steps.items()]
        measure(self.place, arms, arms[0].name, self.protocol, Watch(blocks.append))
        self.clocks.extend(block.telemetry["sm_mhz_mean"] for block in blocks if "sm_mhz_mean" in block.telemetry)
        return {name: statistics.median(b.seconds / b.images for b in blocks if b.arm == name) for name in steps}

    def repeated(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """A kernel's call as it is timed: on a GPU many times over in one graph."""
        return Repeated(call) if self.gpu else call


class Repeated:
    """REPEATS calls in one CUDA graph."""

    times = REPEATS

    def __init__(self, call: Callable[[], Any]) -> None:
        for _ in range(3):
            call()  # compiled and allocated before the capture
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for _ in range(REPEATS):
                self.kept = call()

    def __call__(self) -> None:
        """All of them."""
        self._graph.replay()
