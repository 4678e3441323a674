"""Which bytes of a forward cross the memory bus: its launches walk through their tensors in a cache of the card's size.

The cache drops what was used longest ago. A tensor is cut into slices of some images and some tokens; a written slice crosses
the bus when it is dropped, even if nobody reads it any more, and not if it is overwritten before. A buffer keeps its name from
block to block and from part to part, as in a graph's pool. Real caches hash and divide their lines, so less of them helps.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import product

CUTS = 8  # of the images and of the tokens of a tensor


@dataclass(frozen=True)
class Walk:
    """One way of a launch through its tensors."""

    # Bytes it reads, by the buffer's name.
    reads: dict[str, float]
    # Bytes it writes.
    writes: dict[str, float] = field(default_factory=dict)
    # `images`: one after another, as a matrix product; `tokens`: all images side by side; `back`: from the last token on.
    order: str = "images"
    # What is read for the last time, as the kernel tells the cache.
    last: frozenset[str] = frozenset()

    @property
    def bytes(self) -> float:
        """All that it reads and writes."""
        return sum(self.reads.values()) + sum(self.writes.values())

    def slices(self) -> list[tuple[int, int]]:
        """(images, tokens) of each step."""
        found = list(product(range(CUTS), range(CUTS)))
        if self.order == "images":
            return found
        return [(image, token) for token, image in (found if self.order == "tokens" else reversed(found))]


class Cache:
    """What of the buffers is near."""

    def __init__(self, size: float) -> None:
        self.size, self.used = size, 0.0
        self._slices: OrderedDict[tuple[str, int, int], tuple[float, bool]] = OrderedDict()  # -> (bytes, was it written)

    def walk(self, walk: Walk) -> float:
        """Bytes that cross the bus."""
        moved = 0.0
        for place in walk.slices():
            for name, size in walk.reads.items():
                moved += self._touch((name, *place), size / CUTS**2, first=name in walk.last)
            for name, size in walk.writes.items():
                moved += self._touch((name, *place), size / CUTS**2, written=True)
        return moved

    def _touch(self, key: tuple[str, int, int], size: float, *, written: bool = False, first: bool = False) -> float:
        """Bytes that cross the bus for a slice; first: it is the first to be dropped from now on."""
        before, dirty = self._slices.pop(key, (0.0, False))
        self._slices[key] = size, dirty or written
        self.used += size - before
        moved = 0.0 if written else max(0.0, size - before)
        if first:
            self._slices.move_to_end(key, last=False)
        while self.used > self.size:
            _, (dropped, dirty) = self._slices.popitem(last=False)
            self.used -= dropped
            moved += dropped * dirty
        return moved
