"""torch.compile of a model as an arm: what is compiled, whether it really runs so, and how long compiling took."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from rmeeto_bench.cpus import STEP_THREADS
from rmeeto_bench.errors import ArmError, in_one_line
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.foreign import ForeignModel
from rmeeto_bench.models.vim import Vim, VimBlock

PLAIN = "chunked"  # of our kernels those that a user has who has none: torch's operations, as torch.compile likes them
DISABLED = "torch compiles nothing here; unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE"
AGAIN = "torch.compile compiled it again while it was measured"
NO_COMPILER = ("InvalidCxxCompiler", "No working C++ compiler", "No such file or directory: 'g++'")


class CompiledForward:
    """`model(images)` through torch.compile, for batches of one shape: the first call compiles, and no later one may.

    Of a Vim each mixer and each norm is compiled, one program for all blocks with equally many tokens; the rest of it, merging
    among it, stays as it is. Compiling it whole takes many times as long and gains little. Every other model is compiled
    whole. A program is one graph: what would break it is an error, as is whatever else would quietly run uncompiled.
    """

    def __init__(self, model: ReducedModel | ForeignModel) -> None:
        self.model = model
        self.seconds: float | None = None  # that the compiling call took; None: nothing is compiled yet
        self.graphs = 0  # that were compiled
        self.recompilations = 0  # that torch asked for later
        self._shape: tuple[int, ...] = ()

    def eager(self, images: Tensor) -> Tensor:
        """Images [B, ...] of any B -> logits [B, num_classes], not compiled."""
        with self.switched_off():
            return self.model(images)

    def switched_off(self) -> AbstractContextManager[object]:
        """Where nothing runs compiled, and nothing is compiled."""
        return torch.compiler.set_stance("force_eager")

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, ...] -> logits [B, num_classes]. Raises `ArmError` where compiling fails."""
        if images.is_inference() or not images.is_contiguous():  # another kind of tensor would be compiled for anew
            with torch.inference_mode(mode=False):
                images = images.detach().clone(memory_format=torch.contiguous_format)
        if self.seconds is None:
            return self._first(images)
        if tuple(images.shape) != self._shape:
            raise ArmError(f"it was compiled for batches {list(self._shape)}, not {list(images.shape)}")
        try:
            logits = self.model(images)
        except torch._dynamo.exc.TorchDynamoException as error:  # nothing but compiling anew raises that here
            raise ArmError(AGAIN) from error
        if self.recompilations:
            raise ArmError(AGAIN)
        return logits

    def _first(self, images: Tensor) -> Tensor:
        self.model(images)  # tensors derived from the weights are there then, and the tokens of every block are known
        began, self._shape = time.perf_counter(), tuple(images.shape)
        try:
            self._to_compile()
            with torch._dynamo.config.patch(suppress_errors=False):
                logits = self.model(images)
        except (torch.OutOfMemoryError, ArmError):
            raise
        except Exception as error:  # of dynamo, of inductor, of a compiler, of what they trace
            raise ArmError(_reason(error)) from error
        if not self.graphs:
            raise ArmError(DISABLED)
        self.seconds = time.perf_counter() - began
        return logits

    def _to_compile(self) -> None:
        """Let every part of the model be compiled when it is called."""
        programs: dict[tuple[object, ...], Callable[..., Tensor]] = {}
        for part, *kind in _parts(self.model):
            function = type(part).forward
            if (function, *kind) not in programs:
                programs[function, *kind] = torch.compile(_copy(function), fullgraph=True, dynamic=False, backend=self._compile)
            part.forward = partial(programs[function, *kind], part)

    def _compile(self, graph: Any, inputs: Any) -> Any:
        """What torch.compile calls with each graph."""
        if self.seconds is not None:
            self.recompilations += 1
            return graph.forward
        from torch._inductor import config

        threads = int(os.environ.get(STEP_THREADS, torch.get_num_threads()))
        with config.patch({"cpp.threads": threads}):  # an accuracy pass runs what was compiled for timing
            compiled = torch._dynamo.lookup_backend("inductor")(graph, inputs)
        self.graphs += 1
        return compiled


def _parts(model: ReducedModel | ForeignModel) -> list[tuple[Any, ...]]:
    """The modules that are compiled, each with what tells apart those that share their code but not their program."""
    if isinstance(model, Vim):
        blocks = zip(cast(list[VimBlock], model.layers), model.token_counts(), strict=True)
        return [(part, tokens) for block, tokens in blocks for part in (block.norm, block.mixer)]
    inner = model.inner if isinstance(model, ForeignModel) else model
    assert isinstance(inner, nn.Module)
    return [(inner,)]


def _copy(function: Any) -> FunctionType:
    """The same function with a code object of its own, by which torch.compile keeps its programs: no arm searches those of the
    others at each call."""
    found = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found


def _reason(error: BaseException) -> str:
    """Why compiling failed, and what to do."""
    text = " ".join(str(error).split())
    if any(words in text for words in NO_COMPILER):
        return "torch.compile found no C++ compiler; install g++, or name one in CXX"
    if "no compiled frames" in text:
        return DISABLED
    if type(error).__name__ == "Unsupported":
        first = str(error).strip().splitlines()[0][:150]
        return f"torch.compile cannot make one graph of it ({first}); measure it as it is"
    return f"torch.compile fails on it ({in_one_line(error)}); measure it as it is"
