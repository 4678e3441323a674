"""What a card would need for the kernels of today, worked out from their machine code: images/s beside the paper's.

    python benchmarks/predicted.py                   (Vim-S at batch 128, and one image alone)

A prediction, no measurement. The cycles of each loop are those of results/kernel_static.json: a simulated scheduler that one,
three or eight warps share. A kernel takes as long as its loops or its bytes need, whichever is longer; matrix products reach
65 % of a card's operations or 85 % of its bandwidth. The order of the rows can be trusted more than their digits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from rmeeto_bench import published
from rmeeto_bench.kernels.merge.triton import RANKS, TENSOR_CORES, product_tile
from rmeeto_bench.kernels.selective_scan.triton import PROGRAMS, REGISTERS, launch_shape
from rmeeto_bench.profiles import GpuProfile, profile_named
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import merges

STORED = Path(__file__).parents[1] / "results" / "kernel_static.json"
SHARING = (1, 3, 8)  # warps of a scheduler that were simulated
BANDWIDTH, OPERATIONS, NODE = 0.85, 0.65, 1.5e-6  # shares that are reached; seconds of a node of a graph
CARDS = ("h100-sxm", "a100-sxm-40", "rtx4090", "rtx3090", "a4000", "v100")
RATIOS = (0, 5, 11, 20)
DEPTH, TOKENS, PIXELS, STATES = 24, 197, 150528, 16


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, or a matrix product."""

    # As in kernel_static.json; empty: a matrix product, or a copy.
    kernel: str
    # Programs of the grid.
    programs: int = 0
    # Turns of each of its loops; none: only its bytes count.
    turns: tuple[int, ...] = ()
    # Bytes that cross the memory bus.
    bytes: float = 0.0
    # Floating-point operations of a matrix product.
    operations: float = 0.0


class Card:
    """What one kind of GPU would need."""

    def __init__(self, profile: GpuProfile, clock_mhz: float | None = None) -> None:
        self.profile = profile
        self.clock = 1e6 * (clock_mhz or profile.boost_mhz)
        major, minor = map(int, profile.compute_capability.split("."))
        self.capability, self.most = (major, minor), PROGRAMS.get((major, minor), 32)
        stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))["kernels"]
        fits = [name for name in stored if int(name[3:]) <= 10 * major + minor]
        self.code = fits[-1] if fits else next(iter(stored))  # of a V100 there is none: the A100's stands in
        self.static = stored[self.code]

    def seconds(self, launch: Launch) -> float:
        """How long a launch takes, its place in the graph left out."""
        moved = launch.bytes / (BANDWIDTH * 1e9 * self.profile.bandwidth_gbs)
        if not launch.kernel:
            return 1.1 * max(moved, launch.operations / (OPERATIONS * 1e12 * self.profile.fp16_tflops))
        facts, warps = self.static[launch.kernel], int(launch.kernel[-1])
        registers = 32 * warps * 8 * math.ceil(facts["registers"] / 8)
        room = self.profile.multiprocessors * min(self.most, REGISTERS // registers)
        cycles, left = 0.0, launch.programs
        while left > 0:
            here = math.ceil(min(left, room) / self.profile.multiprocessors)
            sharing = max(1, math.ceil(here * warps / 4))
            each = [float(np.interp(sharing, SHARING, loop)) for loop in facts["turns"]]
            cycles += sharing * sum(turns * one for turns, one in zip(launch.turns, each))
            left -= room
        return max(moved, cycles / self.clock)

    def block(self, batch: int, tokens: int, removed: int, dim: int) -> dict[str, Launch]:
        """The launches of one block of Vim in half precision, on `tokens` tokens, after `removed` have been merged away."""
        inner, rank, entered = 2 * dim, math.ceil(dim / 16), tokens + removed
        rows, shape = batch * tokens, launch_shape(batch, inner, self.profile.multiprocessors, self.most)
        projected = rank + 2 * STATES
        half = math.ceil(tokens / 2) if shape.pair else tokens
        channels = shape.block // (1 + shape.pair)
        found = {
            "scan": Launch(
                f"scan: scan_kernel, warps={shape.warps}", batch * math.ceil(inner / channels), (half, half),
                rows * (16 * inner + 8 * STATES),
            ),
            "conv": Launch(
                "conv: conv_kernel, warps=2", batch * math.ceil(tokens / 16) * math.ceil(inner / 128), (1,), 6 * rows * inner
            ),
            "in_proj": product(rows, dim, 2 * inner),
            "x_proj": product(2 * rows, inner, projected),
            "dt_proj": product(2 * rows, rank, inner),
            "out_proj": product(rows, inner, dim),
        }  # fmt: skip
        if not removed:
            return found | {"add_norm": Launch("add_norm first=False: add_norm_kernel, warps=2", rows, (1,), 12 * rows * dim)}
        sources, tile = entered // 2, product_tile(2, max(self.capability, TENSOR_CORES))
        tiles, parts, ranks = math.ceil(sources / tile), math.ceil(dim / 32), math.ceil(sources / RANKS)
        return found | {
            "nearest": Launch(
                "match: nearest_kernel, warps=4", batch * tiles, (tiles * (parts - 1), tiles), 2 * batch * entered * dim
            ),
            "plan": Launch("match: plan_kernel, warps=4", batch, (ranks * (ranks - 1), ranks, math.ceil(removed / RANKS))),
            "merge": Launch(
                "merge sized=True: merge_add_norm_kernel, warps=2", rows, bytes=6 * batch * (entered + tokens) * dim,
            ),
        }  # fmt: skip

    def kernels(self, batch: int, tokens: int, removed: int, dim: int = 384) -> dict[str, float]:
        """Seconds of each kernel of a block on so many tokens, and of the matching and merging that removes some of them."""
        plain, merging = self.block(batch, tokens, 0, dim), self.block(batch, tokens - removed, removed, dim)
        found = {name: self.seconds(launch) for name, launch in plain.items()}
        return found | {
            "match": sum(self.seconds(merging[n]) for n in ("nearest", "plan")),
            "merge": self.seconds(merging["merge"]),
        }

    def forward(self, batch: int, r: int, dim: int = 384) -> dict[str, float]:
        """Seconds of a forward in a graph, by what takes them."""
        rows, tokens = batch * (TOKENS - 1), TOKENS
        ends = [Launch("", bytes=batch * (6 * PIXELS + 16 * (TOKENS - 1) * dim)), product(rows, 768, dim)]
        found = {"ends": sum(map(self.seconds, ends)) + 10 * NODE + 2e-5}
        removed = merges(ReductionConfig(r=r), depth=DEPTH, initial_tokens=TOKENS)
        for block in range(DEPTH):
            tokens -= removed.get(block, 0)
            for name, launch in self.block(batch, tokens, removed.get(block, 0), dim).items():
                found[name] = found.get(name, 0.0) + self.seconds(launch) + NODE
        return found


def product(rows: int, width: int, out: int) -> Launch:
    """A matrix product in half precision."""
    return Launch("", bytes=2 * rows * (width + out), operations=2 * rows * width * out)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="milliseconds of each kind of launch at r = 0, too")
    given = parser.parse_args()
    print("| card | " + " | ".join(f"r = {r}" for r in RATIOS) + " | one image, ms |\n|" + " --- |" * (len(RATIOS) + 2))
    for name in CARDS:
        card = Card(profile_named(name))
        rates = {r: 128 / sum(card.forward(128, r).values()) for r in RATIOS}
        paper = {r: published.throughput("vim_small", card.profile.paper_column, r) or {} for r in RATIOS}
        cells = [f"{rate / 1000:.1f}k {rate / paper[r]['images_per_second']:.1f}x" for r, rate in rates.items()]
        cells.append(f"{1000 * sum(card.forward(1, 0).values()):.1f}")
        print(f"| {card.profile.display} ({card.code}) | " + " | ".join(cells) + " |")
        if given.parts:
            parts = sorted(card.forward(128, 0).items(), key=lambda item: -item[1])
            print("   " + ", ".join(f"{part} {1000 * seconds:.2f}" for part, seconds in parts))


if __name__ == "__main__":
    main()
