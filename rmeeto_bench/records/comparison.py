"""What a comparison of two programs or runs found: the plain data that `bench` makes and `report` prints.

Only the standard library is imported here. Field names are the JSON names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rmeeto_bench.records.run import Estimate

SCHEMA = "rmeeto-bench-comparison/1"
RATE, SPEEDUP, TOP1, MEMORY = "images/s", "speed-up", "top-1", "peak memory"
PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
FASTER, SLOWER, SAME, REFUSED = "FASTER", "SLOWER", "SAME", "REFUSED"
BETTER, WORSE = "BETTER", "WORSE"  # as FASTER and SLOWER, of an accuracy
NO_LOSS = "NO LOSS"  # of a speed-up that fell because the baseline got faster
EXIT_CODES = {PASS: 0, FAIL: 3, INCONCLUSIVE: 4, FASTER: 0, SAME: 0, SLOWER: 3, REFUSED: 5}


@dataclass(frozen=True)
class Change:
    """One quantity of one arm, in the head over the base.

    `change`: relative (0.01 is 1 %), or percentage points for top-1, with its interval; positive is more of the quantity, which
    is worse only for peak memory. `margin` is in the same unit. `base`, `head`: images/s, ratio, percent or MiB.
    """

    device: str
    arm: str
    metric: str
    base: float
    head: float
    change: Estimate
    margin: float
    outcome: str
    detail: str = ""

    @property
    def text(self) -> str:
        """The change with its interval and unit, for people."""
        scale, unit = (1.0, "points") if self.metric == TOP1 else (100.0, "%")
        inner = f"{scale * self.change.value:+.2f}"
        if self.change.low is not None and self.change.high is not None:
            inner += f" [{scale * self.change.low:+.2f}, {scale * self.change.high:+.2f}]"
        return f"{inner} {unit}"


@dataclass(frozen=True)
class Comparison:
    """Two sides and every change between them. `kind`: gate or compare; `pairs`: fresh processes a side (0: stored runs);
    `advisory`: a side was not measured now, so that nothing fails."""

    kind: str
    base: str
    head: str
    outcome: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    pairs: int = 0
    extended: bool = False
    advisory: bool = False
    schema: str = SCHEMA

    @property
    def exit_code(self) -> int:
        """0, 3 (worse), 4 (inconclusive) or 5 (refused)."""
        return EXIT_CODES[self.outcome]


def to_json(comparison: Comparison) -> str:
    """The comparison's text, stable in field order."""
    return json.dumps(asdict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
