"""The result of comparing two programs or runs: plain data that `compare` makes and `report` prints.

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
EXIT_CODES = {PASS: 0, FAIL: 3, INCONCLUSIVE: 4, FASTER: 0, BETTER: 0, SAME: 0, SLOWER: 3, WORSE: 3, REFUSED: 5}


def share_text(share: float) -> str:
    """`1.3 %` of 0.013, `134 %` of 1.34: two digits or more, and no exponent."""
    return f"{100 * share:{'.0f' if share >= 0.1 else '.2g'}} %"


@dataclass(frozen=True)
class Change:
    """One quantity of one arm, in the head over the base."""

    device: str  # name or id of the device
    arm: str  # name of the arm
    metric: str  # one of RATE, SPEEDUP, TOP1, MEMORY
    base: float  # value of the base, in images/s, ratio, percent or MiB
    head: float  # value of the head, in the same unit
    # relative (0.01 is 1 %), or percentage points for top-1; positive is more, which is worse only for peak memory
    change: Estimate
    margin: float  # tolerated change, in the unit of `change`
    # PASS, FAIL or INCONCLUSIVE in a gate; FASTER, SLOWER, SAME, BETTER, WORSE, INCONCLUSIVE or REFUSED between runs
    outcome: str
    detail: str = ""  # why the outcome is what it is, if there is more to say
    over: str = ""  # the arm that a speed-up is over, where that is not r = 0 of the same model

    @property
    def baseline(self) -> str:
        """The arm that a speed-up is over."""
        return self.over or f"{self.arm.rpartition('/r')[0]}/r0"

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
    """Two sides and every change between them."""

    kind: str  # gate or compare
    base: str  # name of the base
    head: str  # name of the head
    outcome: str  # of all changes together
    changes: tuple[Change, ...]  # one for each arm and metric
    notes: tuple[str, ...] = ()  # differences between the sides, and what was not judged, one sentence each
    pairs: int = 0  # fresh processes of each side; 0: stored runs
    extended: bool = False  # the first processes were inconclusive, so as many again were measured
    advisory: bool = False  # a gate against a stored run, in which nothing can fail
    schema: str = SCHEMA  # version of this format

    @property
    def exit_code(self) -> int:
        """0, 3 (worse), 4 (inconclusive) or 5 (refused)."""
        return EXIT_CODES[self.outcome]


def to_json(comparison: Comparison) -> str:
    """The comparison's text, stable in field order."""
    return json.dumps(asdict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
