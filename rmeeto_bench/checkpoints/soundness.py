"""Refuse a checkpoint whose numbers no training leaves: a download that stopped, a training that diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmeeto_bench.errors import CheckpointError

AGAIN = "download it again, or ask who made it"
SMALLEST = 16  # elements of a matrix below which nothing is concluded from equal numbers
RUN = 1024  # bytes of zeros in a row that no training leaves ...
SHARE = 8  # ... if they are an eighth of a tensor
LONG_RUN = 1 << 16  # bytes of zeros in a row that are too many in any tensor
EMBEDDINGS = ("temporal_pos_embedding", "cls_token")  # may still be the zeros they started from


def check_numbers(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` naming the first tensor that is not finite, constant, partly zero or larger than its bytes."""
    for name, tensor in state.items():
        said = f"{path}: {name[:80]}"
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(
                f"{said} is a sparse, quantised, complex or empty tensor, not weights; save the plain state dict"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{said} claims more numbers than the file has; it was made to fill the memory")
        if tensor.is_floating_point() and tensor.numel():
            _check(tensor if tensor.element_size() > 1 else tensor.float(), name, said)


def _check(tensor: Tensor, name: str, said: str) -> None:
    low, high = (float(value) for value in torch.aminmax(tensor.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CheckpointError(f"{said} holds NaN or infinity; the training that wrote it diverged")
    if name in EMBEDDINGS or tensor.numel() < SMALLEST:
        return
    scale = tensor.dim() == 1 and name.endswith("weight")  # of a normalisation: zeros let nothing through
    if low == high and (tensor.dim() > 1 or (scale and low == 0)):
        value = "zero" if low == 0 else f"{low:g}"
        raise CheckpointError(f"{said} is {value} throughout, so the file is damaged or was never trained; {AGAIN}")
    if tensor.dim() < 2 or int(torch.count_nonzero(tensor)) * tensor.element_size() > tensor.nbytes - RUN:
        return
    filled = np.flatnonzero((tensor != 0).flatten().numpy())
    longest = int(np.diff(filled, prepend=-1, append=tensor.numel()).max() - 1) * tensor.element_size()
    if longest >= LONG_RUN or (longest >= RUN and longest * SHARE >= tensor.nbytes):
        raise CheckpointError(f"{said} holds {longest:,} zero bytes in a row, as after a download that stopped; {AGAIN}")
