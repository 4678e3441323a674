"""Stand-in GPUs inside of torch: tensors that say they are on a GPU, and live in the host's memory.

A tensor is marked when it is moved to a GPU or made there, and whatever is computed of it is marked. Marked and unmarked
tensors do not meet in an operation, a marked one has no `numpy()`, and a graph is the list of operations of its capture, run
again on the same memory: what a GPU would refuse or forget shows here, too. With STAND_IN_LAUNCHES=1 kernels of Triton are
launched in its interpreter once for each dtype; as that takes seconds, what they are tested against computes from then on.

STAND_IN_FAULT: `driver`, too old for torch's build; `compiler`, which fails; `shared`, a kernel that asks for more shared
memory than there is, at more than two images; `bus:UUID`, a GPU that is lost at its eleventh event. STAND_IN_SMALL=1: a card of
one multiprocessor and a cache of 32 KiB.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CPU, KIND = torch.device("cpu"), "cuda"
NAME, MEMORY = "NVIDIA H100 80GB HBM3 (stand-in)", 80 * 2**30
PRODUCTS = ("linear", "bmm", "matmul")
# These may take tensors of two places.
MIXED = ("_has_compatible_shallow_copy_type", "copy_", "__set__", "to", "set_", "index_copy_", "_index_put_impl_")


def fault() -> str:
    """What is wrong today."""
    return os.environ.get("STAND_IN_FAULT", "")


def capability(*_: object) -> tuple[int, int]:
    """Of every GPU."""
    major, minor = os.environ.get("STAND_IN_CAPABILITY", "9.0").split(".")
    return int(major), int(minor)


def marked(value: object) -> bool:
    """Whether this is a tensor on a GPU."""
    return isinstance(value, Tensor) and getattr(value, "_on_gpu", False)


def tensors_of(value: object) -> Iterator[Tensor]:
    """Those in lists, tuples and dicts of arguments or results. Torch's own trees take half of a replay's time."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def mark(value: Any, on: bool = True) -> Any:
    """The value, its tensors on a GPU or not."""
    for tensor in tensors_of(value):
        if on and tensor.numel() * tensor.element_size() > int(os.environ.get("STAND_IN_MEMORY", 2**40)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than the stand-in has")
        tensor._on_gpu = on  # type: ignore[attr-defined]
    return value


def _is_gpu(device: object) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == KIND


def _wanted(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """The device that a call names, or None."""
    if "device" in kwargs:
        return kwargs["device"]
    if getattr(func, "__name__", "") == "to":
        return next((word for word in args[1:] if isinstance(word, str | torch.device)), None)
    return None


def _on_host(value: Any) -> Any:
    return CPU if _is_gpu(value) else value


class StandIn(TorchFunctionMode):
    """Answers for the devices of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if name == "__get__" and owner is Tensor.is_cuda:
            return marked(args[0])
        if name == "__get__" and owner is Tensor.device:
            return torch.device(KIND, 0) if marked(args[0]) else func(*args, **kwargs)
        if name == "get_device":
            return 0 if marked(args[0]) else -1
        if name == "numpy" and marked(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")
        tensors = list(tensors_of((args, kwargs)))
        places = {marked(tensor) for tensor in tensors if tensor.dim() > 0 and not tensor.is_meta}
        if len(places) > 1 and name not in MIXED:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {name}")
        device = _wanted(func, args, kwargs)
        if name in ("cuda", "cpu"):
            moved = args[0].detach().clone() if name == "cpu" and not args[0].requires_grad else args[0].clone()
            return mark(moved, name == "cuda")
        if _is_gpu(device):
            args = tuple(_on_host(value) for value in args)
            kwargs = {key: _on_host(value) for key, value in kwargs.items()}
        if name == "pin_memory":
            return args[0]
        if name == "to" and device is not None and _is_gpu(device) != marked(args[0]):
            kwargs["copy"] = True  # another memory
        half = name in PRODUCTS and tensors[0].dtype == torch.float16  # in which the host needs ten times as long
        out = func(*tree_map_only(Tensor, Tensor.float, args), **kwargs).half() if half else func(*args, **kwargs)
        if name == "__set__" and len(args) == 2 and isinstance(args[1], Tensor) and owner is Tensor.data:
            mark(args[0], marked(args[1]))
            return out
        if device is not None:
            return mark(out, _is_gpu(device))
        if name.endswith("_") and not name.endswith("__") and tensors:
            return out  # in place: where it was
        return mark(out) if True in places or any(map(marked, tensors)) else out


MODE = StandIn()


class Recorder(TorchDispatchMode):
    """Writes down the operations of a capture."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        made, given = ([t.untyped_storage().data_ptr() for t in tensors_of(some)] for some in (out, args))
        if not func.is_view or made[0] not in given:  # a view shows the same memory for ever
            self.graph.steps.append((func, args, kwargs or {}, list(tensors_of(out))))
        return out


class Graph:
    """A CUDA graph: operations on fixed memory."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []  # operation, what it takes, what it gave

    @torch.inference_mode()
    def replay(self) -> None:
        """Every operation again, its results into the memory that they had in the capture."""
        with torch._C.DisableTorchFunction():
            for func, args, kwargs, old in self.steps:
                for before, after in zip(old, tensors_of(func(*args, **kwargs))):
                    if before.data_ptr() != after.data_ptr():
                        before.copy_(after)


@contextlib.contextmanager
def capture(graph: Graph, **_: Any) -> Iterator[None]:
    """As `torch.cuda.graph`."""
    with Recorder(graph):
        yield


class Event:
    """A moment on the stream, which is the host's clock."""

    recorded = 0

    def __init__(self, **_: Any) -> None:
        self.moment = 0.0

    def record(self, *_: Any) -> None:
        """Now."""
        Event.recorded += 1
        if fault() == f"bus:{','.join(visible())}" and Event.recorded > 10:
            raise getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: unspecified launch failure")
        self.moment = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds."""
        return 1000 * (later.moment - self.moment)

    def synchronize(self) -> None:
        """Nothing is queued."""

    def query(self) -> bool:
        """All is done."""
        return True


class Stream:
    """Everything happens at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device(KIND, 0)

    def wait_stream(self, _: Stream) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing is queued."""


OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040)."


def _init() -> None:
    if fault() == "driver":
        raise RuntimeError(f"{OLD_DRIVER} Please update your GPU driver\nor install a PyTorch for it.")


def _available() -> bool:
    if fault() == "driver":
        warnings.warn(f"CUDA initialization: {OLD_DRIVER}", stacklevel=2)
    return bool(visible())


def visible() -> list[str]:
    """UUIDs of the GPUs that this process may see."""
    if fault() == "driver":
        return []
    there = os.environ["STAND_IN_GPUS"].split(",")
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return there
    words = [word for word in chosen.split(",") if word]
    return [there[int(word)] if word.isdecimal() else word for word in words if word in there or word.isdecimal()]


def properties(device: Any = 0) -> SimpleNamespace:
    """Of one of the GPUs that this process sees."""
    index = device.index or 0 if isinstance(device, torch.device) else int(device or 0)
    major, minor = capability()
    processors, cache = (1, 2**15) if os.environ.get("STAND_IN_SMALL") == "1" else (132, 50 * 2**20)
    return SimpleNamespace(
        name=NAME, total_memory=MEMORY, uuid=visible()[index][4:], major=major, minor=minor,
        multi_processor_count=processors, warp_size=32, L2_cache_size=cache, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, shared_memory_per_multiprocessor=233472,
    )  # fmt: skip


def _nothing(*_: Any, **__: Any) -> Any:
    return contextlib.nullcontext()


def _known(name: str, args: tuple[Any, ...]) -> Any:
    """What the operation of this name gives, by the kernels for CPUs."""
    from rmeeto_bench.kernels.add_norm import native as add_norm
    from rmeeto_bench.kernels.arguments import ScanArguments
    from rmeeto_bench.kernels.causal_conv1d import native as conv
    from rmeeto_bench.kernels.merge import native as merge
    from rmeeto_bench.kernels.merge.plan import MergePlan
    from rmeeto_bench.kernels.selective_scan import native as scan

    if name == "selective_scan":
        u, dt, A, BC, D, z, dt_bias, scale = args
        return scan.selective_scan(ScanArguments(u, dt, A, *BC.chunk(2, dim=-1), D, z, dt_bias, scale))
    if name == "selective_scan_backward":
        grad, u, dt, A, BC, D, z, dt_bias, scale = args
        operands = (u.float(), dt.float(), A, *BC.float().chunk(2, dim=-1), D, z.float(), dt_bias)
        leaves = [tensor.detach().requires_grad_() for tensor in operands]
        with torch.enable_grad():
            out = scan.selective_scan(ScanArguments(*leaves, scale))
        du, ddt, dA, dB, dC, dD, dz, dbias = torch.autograd.grad(out, leaves, grad.float())
        return du.to(u.dtype), ddt.to(dt.dtype), dA, torch.cat([dB, dC], dim=-1), dD, dz.to(z.dtype), dbias
    if name == "causal_conv1d":
        return conv.causal_conv1d(*args)
    if name == "add_norm":
        return add_norm.add_norm(*args)
    if name == "match":
        plan = merge.match(*args)
        return plan.survivors, plan.merged, plan.slots
    hidden, residual, size, survivors, merged, slots, weight, eps = args
    return merge.merge_add_norm((hidden, residual), size, MergePlan(survivors, merged, slots, 0), weight, eps)


KNOWN = ("selective_scan", "selective_scan_backward", "causal_conv1d", "add_norm", "match", "merge_add_norm")
LAUNCHED: set[tuple[str, torch.dtype]] = set()


def _fail(args: tuple[Any, ...]) -> None:
    """What a launch would say to these operands."""
    if fault() == "compiler":
        raise RuntimeError("PassManager::run failed")
    if fault() == "shared" and (args[0].shape[1] if args[0].dim() == 4 else args[0].shape[0]) > 2:
        from triton.runtime.errors import OutOfResources

        raise OutOfResources(262144, 232448, "shared memory")


def _with_mode(real: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.library.custom_op` whose Python body sees the stand-in: inside of an operation torch has modes switched off."""

    def custom_op(name: str, *others: Any, **options: Any) -> Callable[..., Any]:
        if not name.startswith("rmeeto_bench::"):  # inductor's
            return real(name, *others, **options)
        own = name.removeprefix("rmeeto_bench::")

        def decorate(body: Callable[..., Any]) -> Any:
            @functools.wraps(body)
            def seen(*args: Any) -> Any:
                _fail(args)
                launches = os.environ.get("STAND_IN_LAUNCHES") == "1"
                if own in KNOWN and (not launches or (own, args[0].dtype) in LAUNCHED):
                    return tree_map_only(Tensor, torch.clone, _known(own, args))  # memory of their own
                LAUNCHED.add((own, args[0].dtype))
                with MODE:
                    return body(*mark(args))

            return real(name, **options)(seen)

        return decorate

    return custom_op


def install() -> None:
    """Put the GPUs into torch."""
    answers: dict[str, Any] = {
        "is_available": _available,
        "init": _init,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "device_count": lambda: len(visible()),
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": capability,
        "get_device_properties": properties,
        "synchronize": lambda *_: None,
        "memory_allocated": lambda *_: 2**30,
        "max_memory_allocated": lambda *_: 3 * 2**29,
        "memory_reserved": lambda *_: 2**31,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "current_stream": Stream,
        "graph_pool_handle": lambda: (0, 0),
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "manual_seed_all": lambda _: None,
        "get_rng_state_all": list,
        "set_rng_state_all": lambda _: None,
        "device": _nothing,
        "stream": _nothing,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capture,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # it asks the driver
        setattr(torch.optim.Optimizer, check, lambda _: None)
    begin = torch.profiler.profile.__init__  # asked for a GPU that is not there, it symbolises a backtrace for each operation
    torch.profiler.profile.__init__ = lambda self, *, activities, **more: begin(self, activities=activities[:1], **more)
    join, parallel = torch.distributed.init_process_group, torch.nn.parallel.DistributedDataParallel  # by gloo, not by NCCL
    torch.distributed.init_process_group = lambda _, **more: join("gloo", **more)
    replicate = parallel.__init__
    parallel.__init__ = lambda self, module, device_ids: replicate(self, module)
    torch.library.custom_op = _with_mode(torch.library.custom_op)  # type: ignore[assignment]
    MODE.__enter__()
