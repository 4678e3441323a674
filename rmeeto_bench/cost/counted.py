"""Operations of models that are not ours, as torch counts them: matrix products, convolutions and attention, nothing else."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.inference_mode()
def counted_gflops(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> float | None:
    """10^9 multiply-adds of a module for one image of this shape; None where torch cannot tell, as for kernels of its own.

    A copy without numbers is run, so the module stays as it is and takes no memory. Attention runs as the products it consists
    of, since not every fused kernel is counted.
    """
    tensors = [*model.parameters(), *model.buffers()]
    try:
        shell = copy.deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors})
        with FlopCounterMode(display=False) as counter, sdpa_kernel([SDPBackend.MATH]):
            shell(torch.empty(1, *input_shape, device="meta", dtype=dtype))
    except (Exception, SystemExit):  # whatever the code of others raises
        return None
    return counter.get_total_flops() / 2 / 1e9 or None  # torch counts a multiply-add as two
