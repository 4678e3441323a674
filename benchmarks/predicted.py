"""What a card would need for the kernels of today, worked out from their machine code: images/s beside the paper's.

    python benchmarks/predicted.py                   (Vim-S at batch 128, and one image alone)

A prediction, no measurement. The cycles of each loop are those of results/kernel_static.json: a simulated scheduler that one,
three or eight warps share. A kernel takes as long as its loops or its bytes need, whichever is longer; matrix products reach
65 % of a card's operations, the memory 85 % of its bandwidth. traffic.py says which bytes come from memory, with a cache of
half the card's size (--cache 1: of its size). The order of the rows can be trusted more than their digits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from traffic import Cache, Walk

sys.path.insert(0, str(Path(__file__).parents[1]))

from rmeeto_bench import published
from rmeeto_bench.kernels.merge.triton import RANKS, TENSOR_CORES, product_tile
from rmeeto_bench.kernels.selective_scan.triton import PROGRAMS, REGISTERS, launch_shape
from rmeeto_bench.models.parts import parts_for
from rmeeto_bench.profiles import GpuProfile, profile_named
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import merges

STORED = Path(__file__).parents[1] / "results" / "kernel_static.json"
SHARING = (1, 3, 8)  # warps of a scheduler that were simulated
BANDWIDTH, OPERATIONS, NODE = 0.85, 0.65, 1.5e-6  # shares that are reached; seconds of a node of a graph
NEAR = 16  # bytes that the second-level cache gives or takes, a clock and multiprocessor: 5 TB/s on an RTX 4090
KEPT = 0.5  # of that cache serves: a real one hashes its lines, and some are divided in two
CARDS = ("h100-sxm", "a100-sxm-40", "rtx4090", "rtx3090", "a4000", "v100")
RATIOS = (0, 5, 11, 20)
DEPTH, TOKENS, PIXELS, STATES = 24, 197, 150528, 16


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, or a matrix product."""

    # As in kernel_static.json; empty: a matrix product, or a copy.
    kernel: str
    # Its ways through its tensors.
    walks: tuple[Walk, ...]
    # Programs of the grid.
    programs: int = 0
    # Turns of each of its loops; none: only its bytes count.
    turns: tuple[int, ...] = ()
    # Floating-point operations of a matrix product.
    operations: float = 0.0


class Card:
    """What one kind of GPU would need."""

    def __init__(self, profile: GpuProfile, clock_mhz: float | None = None, kept: float = KEPT) -> None:
        self.profile, self.kept = profile, kept
        self.clock = 1e6 * (clock_mhz or profile.boost_mhz)
        major, minor = map(int, profile.compute_capability.split("."))
        self.capability, self.most = (major, minor), PROGRAMS.get((major, minor), 32)
        stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))["kernels"]
        fits = [name for name in stored if int(name[3:]) <= 10 * major + minor]
        self.code = fits[-1] if fits else next(iter(stored))  # of a V100 there is none: the A100's stands in
        self.static = stored[self.code]

    def cache(self) -> Cache:
        """Its second-level cache, with nothing in it."""
        return Cache(self.kept * 2**20 * self.profile.l2_mb)

    def seconds(self, launch: Launch, cache: Cache) -> float:
        """How long a launch takes, its place in the graph left out."""
        moved = sum(map(cache.walk, launch.walks)) / (BANDWIDTH * 1e9 * self.profile.bandwidth_gbs)
        near = sum(walk.bytes for walk in launch.walks) / (NEAR * self.profile.multiprocessors * self.clock)
        moved = max(moved, near)
        if not launch.kernel:
            return 1.1 * max(moved, launch.operations / (OPERATIONS * 1e12 * self.profile.fp16_tflops))
        facts, warps = self.static[launch.kernel], int(launch.kernel[-1])
        registers = 32 * warps * 8 * math.ceil(facts["registers"] / 8)
        room = self.profile.multiprocessors * min(self.most, REGISTERS // registers)
        cycles, left = 0.0, launch.programs
        while left > 0:
            here = math.ceil(min(left, room) / self.profile.multiprocessors)
            sharing = max(1, math.ceil(here * warps / 4))
            # of a turn of all warps together: only these grow with every warp, so only they can be interpolated
            each = [float(np.interp(sharing, SHARING, np.multiply(SHARING, loop))) for loop in facts["turns"]]
            cycles += max(1, sharing / SHARING[-1]) * sum(turns * one for turns, one in zip(launch.turns, each))
            left -= room
        return max(moved, cycles / self.clock)

    def block(self, batch: int, tokens: int, removed: int, dim: int, odd: int = 0) -> dict[str, Launch]:
        """The launches of a block of Vim in half precision, odd or not, on `tokens` tokens after `removed` were merged away."""
        inner, rank, rows = 2 * dim, math.ceil(dim / 16), batch * tokens
        wide, low, states = 2 * rows * inner, 2 * rows * rank, 4 * rows * STATES
        shape = launch_shape(batch, inner, self.profile.multiprocessors, self.most)
        half = math.ceil(tokens / 2) if shape.pair else tokens
        ahead = Walk({"u0": wide, "dt0": wide, "BC0": states, "z": wide}, {"y": wide}, "tokens", frozenset({"u0", "dt0"}))
        behind = Walk(
            {"u1": wide, "dt1": wide, "BC1": states, "z": wide, "y": wide}, {"y": wide}, "back", frozenset({"u1", "dt1"})
        )
        normed = Walk({f"normed{odd}": 2 * rows * dim}, {"x": wide, "z": wide})
        return self.enter(batch, tokens, removed, dim, odd) | {
            "in_proj": multiply(rows, dim, 2 * inner, normed),
            "conv": Launch(
                "conv: conv_kernel, warps=2", (Walk({"x": wide}, {"u0": wide, "u1": wide}, "tokens"),),
                batch * math.ceil(tokens / 16) * math.ceil(inner / 128), (1,),
            ),
            "x_proj": multiply(
                2 * rows, inner, rank + 2 * STATES,
                *(Walk({f"u{i}": wide}, {f"low{i}": low, f"BC{i}": states}) for i in range(2)),
            ),
            "dt_proj": multiply(2 * rows, rank, inner, *(Walk({f"low{i}": low}, {f"dt{i}": wide}) for i in range(2))),
            "scan": Launch(
                f"scan: scan_kernel, warps={shape.warps}", (ahead, behind),
                batch * math.ceil(inner / (shape.block // (1 + shape.pair))), (half, half),
            ),
            "out_proj": multiply(rows, inner, dim, Walk({"y": wide}, {f"hidden{1 - odd}": 2 * rows * dim})),
        }  # fmt: skip

    def enter(self, batch: int, tokens: int, removed: int, dim: int, odd: int) -> dict[str, Launch]:
        """The launches between the mixers of two blocks. What outlives a block has a buffer for odd ones and another."""
        entered, rows = tokens + removed, batch * tokens
        before, after = 2 * batch * entered * dim, 2 * rows * dim
        walk = Walk(
            {f"hidden{odd}": before, f"residual{odd}": 2 * before}, {f"residual{1 - odd}": 2 * after, f"normed{odd}": after}
        )
        if not removed:
            return {"add_norm": Launch("add_norm first=False: add_norm_kernel, warps=2", (walk,), rows, (1,))}
        sources, tile = entered // 2, product_tile(2, max(self.capability, TENSOR_CORES))
        tiles, parts, ranks = math.ceil(sources / tile), math.ceil(dim / 32), math.ceil(sources / RANKS)
        plan = (ranks * (ranks - 1), ranks, math.ceil(removed / RANKS))
        metric = Walk({f"hidden{odd}": before})
        return {
            "nearest": Launch("match: nearest_kernel, warps=4", (metric,), batch * tiles, (tiles * (parts - 1), tiles)),
            "plan": Launch("match: plan_kernel, warps=4", (), batch, plan),
            "merge": Launch("merge sized=True: merge_add_norm_kernel, warps=2", (walk,), rows),
        }

    def kernels(self, batch: int, tokens: int, removed: int, dim: int = 384) -> dict[str, float]:
        """Seconds of each kernel of a block on so many tokens, and of the matching and merging that removes some of them, each
        over and over."""
        plain, merging = self.block(batch, tokens, 0, dim), self.block(batch, tokens - removed, removed, dim)
        found = {}
        for name, launch in (plain | merging).items():
            cache = self.cache()
            self.seconds(plain.get(name, launch), cache)
            found[name] = self.seconds(plain.get(name, launch), cache)
        return found | {"match": found["nearest"] + found["plan"]}

    def part(self, batch: int, r: int, dim: int, cache: Cache) -> dict[str, float]:
        """Seconds of a forward of one part of a batch in a graph, by what takes them."""
        rows, tokens = batch * (TOKENS - 1), TOKENS
        images, thin = 2 * batch * PIXELS, 2 * rows * dim
        ends = [
            Launch("", (Walk({"images": images}, {"placed": images}),)),
            multiply(rows, 768, dim, Walk({"placed": images}, {"embedded": thin})),
            Launch("", (Walk({"embedded": thin}, {"positioned": thin}), Walk({"positioned": thin}, {"hidden0": thin}))),
        ]
        found = {"ends": sum(self.seconds(end, cache) for end in ends) + 10 * NODE + 2e-5}
        removed = merges(ReductionConfig(r=r), depth=DEPTH, initial_tokens=TOKENS)
        for block in range(DEPTH):
            tokens -= removed.get(block, 0)
            for name, launch in self.block(batch, tokens, removed.get(block, 0), dim, block % 2).items():
                found[name] = found.get(name, 0.0) + self.seconds(launch, cache) + NODE
        return found

    def parts(self, batch: int, dim: int) -> int:
        """Parts that the package cuts a batch into."""
        major, minor = self.capability
        size, count = int(2**20 * self.profile.l2_mb), self.profile.multiprocessors
        card = SimpleNamespace(major=major, minor=minor, L2_cache_size=size, multi_processor_count=count)
        return parts_for(batch, TOKENS, dim, 2, card)

    def forward(self, batch: int, r: int, dim: int = 384, parts: int | None = None) -> dict[str, float]:
        """Seconds of a forward in a graph, by what takes them: of all its parts, one after another, as often as you like."""
        parts, cache, found = parts or self.parts(batch, dim), self.cache(), dict[str, float]()
        sizes = [batch // parts + (part < batch % parts) for part in range(parts)]
        self.part(sizes[-1], r, dim, cache)  # what is near at the start
        for size in sizes:
            for name, seconds in self.part(size, r, dim, cache).items():
                found[name] = found.get(name, 0.0) + seconds
        return found


def multiply(rows: int, width: int, out: int, *walks: Walk) -> Launch:
    """A matrix product in half precision."""
    return Launch("", walks, operations=2 * rows * width * out)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", action="store_true", help="milliseconds of each kind of launch at r = 0, too")
    parser.add_argument("--parts", type=int, help="of the batch, one after another (default: as the package cuts it)")
    parser.add_argument("--cache", type=float, default=KEPT, help="share of the second-level cache that serves")
    given = parser.parse_args()
    print("| card | " + " | ".join(f"r = {r}" for r in RATIOS) + " | one image, ms |\n|" + " --- |" * (len(RATIOS) + 2))
    for name in CARDS:
        card = Card(profile_named(name), kept=given.cache)
        rates = {r: 128 / sum(card.forward(128, r, parts=given.parts).values()) for r in RATIOS}
        paper = {r: published.throughput("vim_small", card.profile.paper_column, r) or {} for r in RATIOS}
        cells = [f"{rate / 1000:.1f}k {rate / paper[r]['images_per_second']:.1f}x" for r, rate in rates.items()]
        cells.append(f"{1000 * sum(card.forward(1, 0).values()):.1f}")
        print(f"| {card.profile.display} ({card.code}) | " + " | ".join(cells) + " |")
        if given.launches:
            parts = sorted(card.forward(128, 0, parts=given.parts).items(), key=lambda item: -item[1])
            print("   " + ", ".join(f"{part} {1000 * seconds:.2f}" for part, seconds in parts))


if __name__ == "__main__":
    main()
