"""The raw rounds of a run as rows of text, for the page and for `show --rounds`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rmeeto_bench.records.run import Block


def round_rows(blocks: Sequence[Block]) -> Iterator[list[dict[str, str]]]:
    """For each session a row per round: ms per image of each arm, its place in the order, and why the round was dropped."""
    for session in dict.fromkeys(block.session for block in blocks):
        here = [block for block in blocks if block.session == session]
        arms = sorted({block.arm for block in here}, key=lambda name: (len(name), name))
        rounds: dict[int, dict[str, Block]] = {}
        for block in here:
            rounds.setdefault(block.round, {})[block.arm] = block
        rows = []
        for number, by_arm in rounds.items():
            row = {"session": str(session), "round": str(number), **dict.fromkeys(arms, "")}
            row |= {a: f"{1000 * block.seconds / block.images:.4f} ({block.position})" for a, block in by_arm.items()}
            reasons = [block.rejected_reason for block in by_arm.values() if block.rejected_reason]
            dropped = reasons[0] if reasons else "" if len(by_arm) == len(arms) else "cut short"
            rows.append(row | ({"dropped": dropped} if dropped else {}))
        yield rows
