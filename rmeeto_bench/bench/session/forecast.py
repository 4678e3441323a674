"""How long the whole run will take, told from the first round of its first session."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rmeeto_bench.bench.plan.estimate import START, minutes
from rmeeto_bench.bench.session.latency import longest_seconds
from rmeeto_bench.measure.protocol import TimingProtocol, blind_seconds
from rmeeto_bench.records.run import Block

LATE = 1.15  # times the promise that an estimate may be before it is called longer


def forecast(protocol: TimingProtocol, session_seconds: float, accuracy_seconds: float, longer: float = 0.0) -> str:
    """A sentence for the user; `session_seconds` are those of one whole session, `longer` what the first one takes beyond."""
    total = longer + protocol.sessions * session_seconds + accuracy_seconds
    count = "one process" if protocol.sessions == 1 else f"{protocol.sessions} processes"
    parts = f"{count} of {minutes(session_seconds)}"
    if longer:
        parts += f", {minutes(longer)} to warm up a device that tells no temperature"
    if accuracy_seconds:
        parts += f" and {minutes(accuracy_seconds)} of accuracy"
    what = "timing and accuracy" if accuracy_seconds else "timing"
    text = f"{what} will take about {minutes(total)} on this device: {parts}"
    if total > LATE * 60 * protocol.minutes:
        ways = ["fewer --ratios", *["fewer --images"] * bool(accuracy_seconds), *["--quick"] * (protocol.name != "quick")]
        promised = f"the {protocol.minutes:g} min that the {protocol.name} preset promises"
        text += f". That is longer than {promised}; {' or '.join(ways)} would help"
    return text


@dataclass
class Forecast:
    """Takes the blocks of a session on their way to the store, and tells the time once when each arm had one."""

    protocol: TimingProtocol  # of the session
    arms: int  # in a round
    evaluated: int  # images of the accuracy pass, views of clips included
    keep: Callable[[Block], None]  # stores a block
    tell: Callable[[str], None]  # says a sentence to the user
    began: float = field(default_factory=time.monotonic)  # when the session's work began, on the monotonic clock
    latencies: bool = False  # single steps are timed after the rounds
    _seen: dict[str, Block] = field(default_factory=dict)  # arm -> its latest block, until each had one

    def add_block(self, block: Block) -> None:
        """Keep a block; after the first of the last arm, tell."""
        self.keep(block)
        if len(self._seen) == self.arms:
            return
        self._seen[block.arm] = block
        if len(self._seen) == self.arms:
            seen = self._seen.values()
            one_round = sum(found.wall_seconds for found in seen)
            before = START + max(0.0, time.monotonic() - self.began - one_round)
            rounds = min(self.protocol.max_rounds * one_round, max(self.protocol.time_limit, 6 * one_round))
            if self.latencies:
                rounds += sum(longest_seconds(found.seconds / found.images) for found in seen)
            per_image = sum(found.seconds / found.images for found in seen if "@" not in found.arm)
            accuracy = START + self.evaluated * per_image if self.evaluated else 0.0
            blind = not any("temperature_c" in found.telemetry for found in seen)
            later = blind_seconds(self.protocol, block.device.partition(":")[0], math.inf)
            longer = max(0.0, self.protocol.blind_seconds - later) if blind else 0.0
            self.tell(forecast(self.protocol, before + rounds - longer, accuracy, longer))
