"""CUDA graphs of whole forwards: hundreds of small launches become one, per (model settings, batch shape, dtype)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmeeto_bench.errors import ArmError
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.foreign import ForeignModel
from rmeeto_bench.models.parts import parts_of

MOST = 8  # graphs kept; the one used least recently makes room
WARMUP = 3


@dataclass(frozen=True)
class _Captured:
    """A captured graph and the tensors it reads and writes."""

    graph: torch.cuda.CUDAGraph  # one forward of the model
    images: Tensor  # static input [B, in_chans, H, W]; a call copies its images here before the replay
    logits: Tensor  # static output [B, num_classes]; every replay overwrites it
    parts: int  # of the batch, which go through the model one after another


class GraphedForward:
    """`model(images)` replayed from a CUDA graph; anything that cannot be captured runs eagerly.

    On a CPU, in training mode or where gradients are wanted, the model itself is called. A replay reads the parameters
    at their addresses, so weights changed in place are used; parameters that moved, or another reduction, make a new
    graph. The logits are a copy, so that the next call does not overwrite them. All graphs of one object share a memory pool.
    forward: how the model is called, None: plainly. parts: of each batch, one after another within its graph; None: as many as
    suit the card.
    """

    def __init__(
        self,
        model: ReducedModel | ForeignModel,
        forward: Callable[[Tensor], Tensor] | None = None,
        most: int = MOST,
        parts: int | None = None,
    ) -> None:
        self.model = model
        self._forward = forward or model
        self.most = most
        self._cut = parts
        self.refused: str | None = None
        self._graphs: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def parts(self, batch: int) -> int:
        """Into how many parts a batch of this size was cut."""
        return max((captured.parts for captured in self._graphs.values() if len(captured.images) == batch), default=1)

    def eligible(self, images: Tensor) -> bool:
        """Whether these images can go through a graph."""
        return images.is_cuda and not self.model.training and not torch.is_grad_enabled() and self.refused is None

    def key(self, images: Tensor) -> tuple[object, ...]:
        """What a graph is valid for: these images' shape and dtype, this reduction, and the parameters at their addresses.

        The graph of a frozen model holds what was derived from the weights, so it serves that one `freeze` only.
        """
        weights: object = self.model.frozen
        if weights is None:
            tensors = (*self.model.parameters(), *self.model.buffers())
            weights = tuple((tensor.data_ptr(), tensor.dtype, tensor.stride()) for tensor in tensors)
        return tuple(images.shape), images.dtype, self.model.reduction, weights

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] -> logits [B, num_classes]."""
        if not self.eligible(images):
            return self._forward(images)
        key = self.key(images)
        captured = self._graphs.get(key)
        if captured is None:
            captured = self._capture(images)
            if captured is None:
                return self._forward(images)
            self._graphs[key] = captured
            while len(self._graphs) > self.most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        captured.images.copy_(images)
        captured.graph.replay()
        return captured.logits.clone()

    def _capture(self, images: Tensor) -> _Captured | None:
        """Warm up on a side stream, so that nothing is compiled or allocated for the first time in the capture."""
        with torch.inference_mode(mode=False):
            static = torch.empty_like(images)  # outside of inference mode it could not be written to otherwise
        static.copy_(images)
        parts = self._cut or parts_of(self.model, images)
        try:
            stream = torch.cuda.Stream(images.device)
            stream.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(stream):
                for _ in range(WARMUP):
                    self._in_parts(static, parts)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._in_parts(static, parts)
        except (torch.OutOfMemoryError, ArmError):  # the latter before any capture: what was to be compiled cannot be
            raise
        except Exception as error:  # an operation that synchronises, a driver without graphs, a compiler of many types
            self.refused = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            torch.cuda.synchronize(images.device)
            return None
        return _Captured(graph, static, logits, parts)

    def _in_parts(self, images: Tensor, parts: int) -> Tensor:
        """The logits of all parts, [B, num_classes]. The buffers of a part serve the next one."""
        if parts == 1:
            return self._forward(images)
        return torch.cat([self._forward(part) for part in images.tensor_split(parts)])
