"""CUDA graphs of whole forwards: hundreds of small launches become one, per (model settings, batch shape, dtype)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.models.base import ReducedModel

MOST = 8  # graphs kept; the one used least recently makes room
WARMUP = 3


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor


class GraphedForward:
    """`model(images)` replayed from a CUDA graph; anything that cannot be captured runs eagerly.

    On a CPU, in training mode or where gradients are wanted, the model itself is called. Changed weights, a moved model
    or another reduction make a new graph. The logits are a copy, so that the next call does not overwrite them. All
    graphs of one object share a memory pool.
    """

    def __init__(self, model: ReducedModel, most: int = MOST) -> None:
        self.model = model
        self.most = most
        self.refused: str | None = None
        self._graphs: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        self._pool: Any = None
        self._tables = [module._parameters for module in model.modules()]  # a walk of the modules costs a millisecond a call
        self._ids: tuple[int, ...] = ()  # of the parameters at the last call
        self._versioned: list[Tensor] = []  # those of them that count their changes

    def __len__(self) -> int:
        return len(self._graphs)

    def eligible(self, images: Tensor) -> bool:
        """Whether these images can go through a graph."""
        return images.is_cuda and not self.model.training and not torch.is_grad_enabled() and self.refused is None

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] -> logits [B, num_classes]."""
        if not self.eligible(images):
            return self.model(images)
        key = (tuple(images.shape), images.dtype, self.model.reduction, self.model.head.weight.dtype, self._state())
        captured = self._graphs.get(key)
        if captured is None:
            captured = self._capture(images)
            if captured is None:
                return self.model(images)
            self._graphs[key] = captured
            while len(self._graphs) > self.most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        captured.images.copy_(images)
        captured.graph.replay()
        return captured.logits.clone()

    def _state(self) -> tuple[object, ...]:
        """What changes with any parameter: prepared constants are in the graph. One made in inference mode has no version."""
        found = [parameter for table in self._tables for parameter in table.values() if parameter is not None]
        ids = tuple(map(id, found))
        if ids != self._ids:
            self._ids = ids
            self._versioned = [parameter for parameter in found if not parameter.is_inference()]
        return ids, self.model.head.weight.data_ptr(), sum([parameter._version for parameter in self._versioned])

    def _capture(self, images: Tensor) -> _Captured | None:
        """Warm up on a side stream, so that nothing is compiled or allocated for the first time in the capture."""
        with torch.inference_mode(mode=False):
            static = torch.empty_like(images)  # outside of inference mode it could not be written to otherwise
        static.copy_(images)
        try:
            stream = torch.cuda.Stream(images.device)
            stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    self.model(static)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self.model(static)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an operation that synchronises, a driver without graphs, a compiler of many types
            self.refused = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            torch.cuda.synchronize(images.device)
            return None
        return _Captured(graph, static, logits)
