"""Amounts with their unit, as people type them: `0.5%`, `0.2` points."""

from __future__ import annotations

import argparse


def percent(text: str) -> float:
    """`0.5%` as 0.005. A bare number is refused: 0.5 could mean either."""
    number = text.strip()
    try:
        if not number.endswith("%"):
            raise ValueError
        value = float(number[:-1]) / 100
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage; write it as 0.5%") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie between 0% and 100%")
    return value


def points(text: str) -> float:
    """Percentage points of accuracy, a positive number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of percentage points; write it as 0.2") from None
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} does not lie between 0 and 100 points")
    return value
