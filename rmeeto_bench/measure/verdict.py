"""Whether a measurement may be believed, why not, and what to do about it."""

from __future__ import annotations

from rmeeto_bench.measure.rounds import Protocol, RoundsResult

REMEDIES = {
    "VALID": "",
    "EXPLORATORY": "a quick look at few short rounds; run without --quick for numbers to keep",
    "NOT_STEADY": "speed was still drifting after warm-up; close other programs and run again",
    "PRECISION_NOT_REACHED": "the interval of a speed-up is wider than asked for; let the machine idle, or use --rigorous",
    "INTERRUPTED": "stopped early; run again for the missing rounds",
    "OOM": "out of memory at this batch size; choose a smaller --batch-size for all arms",
    "TOKENS_MISMATCH": "the tokens counted in the timed program are not those of the schedule; please report this",
    "NOT_MEASURED": "nothing was timed for this arm; run again",
}
FEWEST_ROUNDS = 3  # fewer complete rounds give no interval worth printing


def judge(result: RoundsResult, protocol: Protocol) -> str:
    """The verdict code of one device's rounds; `REMEDIES` has its sentence."""
    if result.rounds == 0:
        return "NOT_MEASURED"
    if result.ended == "interrupted":
        return "INTERRUPTED"
    if protocol.name == "quick":
        return "EXPLORATORY"
    if not result.steady:
        return "NOT_STEADY"
    return "VALID" if result.half_width <= protocol.target else "PRECISION_NOT_REACHED"  # two checks in a row only end it early
