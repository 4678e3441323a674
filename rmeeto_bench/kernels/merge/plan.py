"""The result of a matching, in the form that the merging kernel reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MergePlan:
    """What becomes of every row in a merge. The index tensors are int32."""

    survivors: Tensor  # [B, L - r], input row of every output row
    merged: Tensor  # [B, r], input rows that disappear, closest pair first
    slots: Tensor  # [B, r], output rows that they fold into
    cls_position: int  # output row of the class token
