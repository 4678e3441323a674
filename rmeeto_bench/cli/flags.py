"""The flags that say how much to reduce, shared by the commands that count instead of measuring."""

from __future__ import annotations

import argparse
from typing import Protocol

from rmeeto_bench.reduction.config import ReductionConfig


class Schedulable(Protocol):
    """What of a model's sizes decides its schedule."""

    @property
    def depth(self) -> int:
        """Blocks."""

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, class token included."""

    def token_counts(self, reduction: ReductionConfig) -> tuple[int, ...]:
        """Tokens entering each block."""


def add_amount_arguments(parser: argparse.ArgumentParser) -> None:
    """`--ratios` or `--r`."""
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--ratios", metavar="LIST", help="reduction ratios (default: 0,0.14,0.28,0.31,0.36,0.42,0.54)")
    amount.add_argument("--r", metavar="LIST", help="tokens removed per merge instead, as in 0,5,11")


def chosen_rs(arguments: argparse.Namespace, sized: Schedulable, reduction: ReductionConfig) -> tuple[int, ...]:
    """The r of each row: as given, or nearest to each ratio under this reduction's schedule. Raises `UsageError`."""
    from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs
    from rmeeto_bench.reduction.schedule import PAPER_RATIOS, nearest_r

    if arguments.r is not None:
        return parse_rs(arguments.r)
    if arguments.ratios is None:
        return tuple(PAPER_RATIOS.values())
    ratios = parse_ratios(arguments.ratios)
    found = (nearest_r(ratio, sized.token_counts, sized.num_tokens, reduction)[0] for ratio in ratios)
    return tuple(dict.fromkeys(found))
