"""How many launches a forward on a GPU makes, counted on tensors that only have shapes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rmeeto_bench.kernels.registry import BACKENDS, Operands
from rmeeto_bench.models.sizes import config
from rmeeto_bench.models.vim import Vim
from rmeeto_bench.reduction.config import ReductionConfig

VIEWS = {
    "_unsafe_view",
    "alias",
    "as_strided",
    "chunk",
    "detach",
    "device",
    "empty",
    "empty_like",
    "expand",
    "flatten",
    "new_empty",
    "permute",
    "reshape",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}  # these launch nothing
LAUNCHES = {"match": 2}  # of an operation, where it is not one
MOST = 205  # of a forward: on a fast GPU the host becomes the limit


class Count(TorchDispatchMode):
    """Operations by name, views and allocations left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        if name not in VIEWS:
            self.seen[name] += LAUNCHES.get(name, 1)
        return function(*args, **(kwargs or {}))


def on_no_gpu(model: torch.nn.Module) -> None:
    """Replace the parameters by ones in half precision that have only shapes, on CUDA."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=torch.float16, device="cuda")
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)


def test_a_forward_of_vim_small_makes_few_launches() -> None:
    pytest.importorskip("triton", reason="this torch came without triton")
    sizes = config("vim_small", embed_dim=16)  # as many operations, on fewer channels
    model = Vim(sizes, ReductionConfig(r=11), kernels=BACKENDS["triton"](Operands("cpu", 16, 4))).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        on_no_gpu(model)
        model.freeze()
        images = torch.empty(2, 3, 224, 224, dtype=torch.float16, device="cuda")
        model(images)  # derives from the weights what a frozen model keeps
        with Count() as count:
            model(images)
    seen = count.seen
    assert seen["selective_scan"] == seen["causal_conv1d"] == 24
    assert seen["match"] == 22
    assert seen.total() <= MOST, seen
