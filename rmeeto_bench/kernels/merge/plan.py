"""What a matching decided, as the merging kernel reads it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MergePlan:
    """survivors [B, L - r]: input row of every output row · merged [B, r]: input rows that disappear, closest pair first
    · slots [B, r]: the output rows they fold into. All int32. `cls_position` is the class token's output row."""

    survivors: Tensor
    merged: Tensor
    slots: Tensor
    cls_position: int
