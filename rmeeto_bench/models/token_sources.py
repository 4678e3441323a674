"""Which original tokens each remaining token stands for, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmeeto_bench.models.base import ReducedModel


@dataclass(frozen=True)
class Stage:
    """The tokens that are left after a block that reduced their number."""

    block: int  # 0-based
    source: NDArray[np.float32]  # [L, L_0], 1 where a token holds an original one; the rows are in the tokens' order

    @property
    def tokens(self) -> int:
        """Tokens left, class token included."""
        return len(self.source)


@torch.inference_mode()
def trace(model: ReducedModel, image: Tensor) -> list[Stage]:
    """The stages of one image or clip [1, ...] at which the number of tokens changed, in order."""
    tokens = model.forward_tokens(image, track_source=True)
    stages: list[Stage] = []
    length = model.config.num_tokens
    for block, source in enumerate(tokens.sources):
        held = int(source[0].any(1).sum())  # masked pruning keeps empty rows
        if held < length:
            stages.append(Stage(block, source[0].float().cpu().numpy()))
            length = held
    return stages
