"""Scores of how close two tokens are, by name; the matching chooses by them. Torch is imported when one is computed.

A new distance is one entry: `DISTANCES["mine"] = function`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _minkowski(p: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Minus the distance of order p between all rows."""

    def score(sources: Tensor, destinations: Tensor) -> Tensor:
        import torch

        return -torch.cdist(sources, destinations, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    return score


# Scores [B, S, T] of unit rows [B, S, F] and [B, T, F]; larger is closer.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda sources, destinations: sources @ destinations.transpose(1, 2),
    "l1": _minkowski(1.0),
    "l2": _minkowski(2.0),
}
