"""Into how many parts a batch is cut so that what one kernel of a block writes is still in the cache when the next reads it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.foreign import ForeignModel
from rmeeto_bench.models.vim import Vim

WIDE_CACHES = ((8, 9), (12, 0))  # compute capabilities with a large second-level cache before a slow memory
SHARE = 0.55  # of the cache: what the convolutions of a part may fill
WARPS = 5  # of the scan for each multiprocessor, of 64 channels each: with fewer it waits for its own results


def parts_for(batch: int, tokens: int, dim: int, width: int, card: Any) -> int:
    """Parts of a batch of a Vim on this card, one where the scan's arithmetic binds or the rest would starve it.

    tokens of the first block; width: bytes of a value; card: what torch says of the properties of a device.
    """
    if (card.major, card.minor) not in WIDE_CACHES or not card.L2_cache_size:
        return 1
    inner = 2 * dim
    parts = -(-batch * 2 * tokens * inner * width // int(SHARE * card.L2_cache_size))  # u is [2, B, L, D]
    fewest = -(-WARPS * card.multi_processor_count * 64 // inner)  # images of a part
    return max(1, min(parts, batch // fewest))


def parts_of(model: ReducedModel | ForeignModel, images: Tensor) -> int:
    """Parts of these images [B, ...] on a GPU: ours on the triton kernels are cut, as long as nothing is drawn for a batch."""
    if not isinstance(model, Vim) or model.kernels_name != "triton" or model.merge_path.startswith("torch"):
        return 1
    card = torch.cuda.get_device_properties(images.device)
    return parts_for(len(images), model.config.num_tokens, model.config.embed_dim, images.element_size(), card)
