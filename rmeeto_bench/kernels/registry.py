"""Choose the backend that runs a model, once per model and device, and record why the faster ones were refused.

`auto` takes the first backend of the device's list that is installed and passes a self-test against the reference.
Asking for a backend by name that cannot run is an error: a missing fast path never goes unnoticed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from rmeeto_bench.errors import RmeetoError, UnavailableError, UsageError
from rmeeto_bench.kernels import mamba_ssm
from rmeeto_bench.kernels.add_norm import native as add_norm_native
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import native as conv_native
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge import native as merge_native
from rmeeto_bench.kernels.merge import reference as merge_reference
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.native.library import describe, library
from rmeeto_bench.kernels.selective_scan import chunked as scan_chunked
from rmeeto_bench.kernels.selective_scan import native as scan_native
from rmeeto_bench.kernels.selective_scan import reference as scan_reference
from rmeeto_bench.kernels.selective_scan import stepwise as scan_stepwise
from rmeeto_bench.kernels.untraced import untraced

TOLERANCE = 1e-3
TRITON_SINCE = (7, 0)  # the oldest compute capability Triton is built and tested for
# From this compute capability on an older Triton than this does not compile: it ends the process.
NEW_CARDS, THEIR_TRITON = (10, 0), (3, 3)


@dataclass(frozen=True)
class MergeKernels:
    """The paper's merge in two kernels (see `merge.reference`)."""

    match: Callable[[Tensor, int, int, int], MergePlan]  # (hidden, class token's row, its new row, r) -> plan
    # ((hidden, residual), size, plan, norm weight, eps) -> (normed, residual, size)
    merge_add_norm: Callable[..., tuple[Tensor, Tensor, Tensor]]
    most_sources: int  # of an image


@dataclass(frozen=True)
class Kernels:
    """One backend's implementations of all operations."""

    name: str  # of the backend
    selective_scan: Callable[[ScanArguments], Tensor]  # operands -> [B, L, D]
    causal_conv1d: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x [B, L, D], taps [2, D, K], bias [2, D]) -> [2, B, L, D]
    # (hidden, residual or None, weight [C], eps) -> (normed, residual), both [B, L, C]
    add_norm: Callable[[Tensor, Tensor | None, Tensor, float], tuple[Tensor, Tensor]]
    merge: MergeKernels | None = None  # None: merging runs in torch
    returns: bool = False  # join B, C and delta of both directions after every block, as upstream's merging models return them
    refused: Mapping[str, str] = field(default_factory=dict)  # faster backend of `auto` -> why it was refused

    def account(self) -> str:
        """One line for the user: which kernels these are, and why no faster ones run."""
        own = f"native kernels ({describe()})" if self.name == "native" else f"{self.name} kernels"
        return "; ".join([own, *(f"not on {name}: {reason}" for name, reason in self.refused.items())])


@dataclass(frozen=True)
class Operands:
    """What decides whether a backend can serve a model."""

    device: str  # kind of device: cpu, cuda, ...
    d_state: int  # states N of each channel of the scan
    d_conv: int  # taps K of the convolution
    float64: bool = False  # the model is in float64, in which only the plain torch backends compute
    gradients: bool = False  # the model is being trained, so the self-test compares gradients, too


def _sizes(operands: Operands, name: str, states: tuple[int, ...], width: int) -> None:
    if operands.float64:
        raise UnavailableError(f"the {name} kernels compute in fp32, this model is in float64; --backend reference serves it")
    if operands.d_state not in states or operands.d_conv != width:
        raise UnavailableError(
            f"the {name} kernels serve d_state {states} and d_conv {width}, "
            f"this model has {operands.d_state} and {operands.d_conv}"
        )


def _native(operands: Operands) -> Kernels:
    if operands.device != "cpu":
        raise UnavailableError(f"the native kernels are for the CPU, this model is on {operands.device}")
    _sizes(operands, "native", scan_native.STATES, conv_native.WIDTH)
    library()
    merging = MergeKernels(merge_native.match, merge_native.merge_add_norm, merge_native.MOST)
    return Kernels("native", scan_native.selective_scan, conv_native.causal_conv1d, add_norm_native.add_norm, merging)


def interpreting() -> bool:
    """Whether Triton's interpreter is switched on: its kernels then run on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton(operands: Operands) -> Kernels:
    capability = TRITON_SINCE
    if operands.device == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < TRITON_SINCE:
            raise UnavailableError(
                f"the triton kernels need compute capability 7.0, this GPU has {capability[0]}.{capability[1]}"
            )
    elif not (operands.device == "cpu" and interpreting()):
        raise UnavailableError(f"the triton kernels are for CUDA GPUs, this model is on {operands.device}")
    try:
        import triton

        from rmeeto_bench.kernels.add_norm import triton as add_norm
        from rmeeto_bench.kernels.causal_conv1d import triton as conv
        from rmeeto_bench.kernels.merge import triton as merge
        from rmeeto_bench.kernels.selective_scan import triton as scan
    except ImportError as error:
        raise UnavailableError(f"triton does not import ({error}); install the CUDA build of torch, which brings it") from error
    if capability >= NEW_CARDS and tuple(map(int, triton.__version__.split(".")[:2])) < THEIR_TRITON:
        raise UnavailableError(
            f"triton {triton.__version__} cannot compile for compute capability {capability[0]}.{capability[1]}; "
            f"install a torch from 2.7 on, which brings one that can"
        )
    _sizes(operands, "triton", scan.STATES, conv.WIDTH)
    merging = MergeKernels(merge.match, merge.merge_add_norm, merge.MOST)
    return Kernels("triton", scan.selective_scan, conv.causal_conv1d, add_norm.add_norm, merging)


def _mamba_ssm(operands: Operands) -> Kernels:
    if operands.device != "cuda":
        raise UnavailableError(f"mamba-ssm's kernels are for CUDA GPUs, this model is on {operands.device}")
    if operands.float64:
        raise UnavailableError("mamba-ssm's kernels compute in fp32, this model is in float64; --backend reference serves it")
    mamba_ssm.require()
    return Kernels("mamba_ssm", mamba_ssm.selective_scan, mamba_ssm.causal_conv1d, mamba_ssm.add_norm)


def _in_torch(name: str, selective_scan: Callable[[ScanArguments], Tensor]) -> Callable[[Operands], Kernels]:
    """A backend whose scan is made of torch's operations, and the rest as it is defined. It serves everything."""
    return lambda _: Kernels(name, selective_scan, conv_reference.causal_conv1d, add_norm_reference.add_norm)


# Each builds the backend's kernels for these operands, or raises `UnavailableError` with the reason.
BACKENDS: dict[str, Callable[[Operands], Kernels]] = {
    "triton": _triton,
    "mamba_ssm": _mamba_ssm,
    "native": _native,
    "chunked": _in_torch("chunked", scan_chunked.selective_scan),
    "stepwise": _in_torch("stepwise", scan_stepwise.selective_scan),
    "reference": _in_torch("reference", scan_reference.selective_scan),
}
PREFERENCE = {"cpu": ("native", "stepwise"), "cuda": ("triton", "mamba_ssm", "chunked")}


def sample_arguments(device: str, d_state: int, length: int = 7) -> ScanArguments:
    """Small seeded operands (batch 2, 20 channels) for a self-test or an example."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    batch, channels = 2, 20
    return ScanArguments(
        u=draw(2, batch, length, channels),
        dt=draw(2, batch, length, channels),
        A=-draw(2, channels, d_state).exp(),
        B=draw(2, batch, length, d_state),
        C=draw(2, batch, length, d_state),
        D=draw(2, channels),
        z=draw(batch, length, channels),
        dt_bias=draw(2, channels),
        scale=0.5,
    )


def scan_gradients(scan: Callable[[ScanArguments], Tensor], arguments: ScanArguments) -> dict[str, Tensor]:
    """Operand -> gradient of the output's sum of squares."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        names = [item.name for item in fields(arguments) if isinstance(getattr(arguments, item.name), Tensor)]
        leaves = {name: getattr(arguments, name).detach().clone().requires_grad_() for name in names}
        out = scan(replace(arguments, **leaves))
        return dict(zip(names, torch.autograd.grad(out.square().sum(), list(leaves.values()))))


def self_test(kernels: Kernels, operands: Operands) -> None:
    """Compare every operation, and the scan's gradients where they are needed, with the reference on small fp32 operands.
    Raises `UnavailableError` beyond 1e-3."""
    arguments = sample_arguments(operands.device, operands.d_state)
    generator = torch.Generator().manual_seed(1)
    taps = torch.randn(2, arguments.z.shape[2], operands.d_conv, generator=generator).to(operands.device)
    x, channels = arguments.z, arguments.D
    with torch.no_grad():
        pairs = {
            "scan": (kernels.selective_scan(arguments), scan_reference.selective_scan(arguments)),
            "convolution": (kernels.causal_conv1d(x, taps, channels), conv_reference.causal_conv1d(x, taps, channels)),
            "norm": (
                kernels.add_norm(x, x.flip(1), channels[0], 1e-5)[0],
                add_norm_reference.add_norm(x, x.flip(1), channels[0], 1e-5)[0],
            ),
        }
        if kernels.merge is not None:
            streams, cls, moved, removed = (x, x.flip(1)), 3, 2, 2
            ours = kernels.merge.merge_add_norm(streams, None, kernels.merge.match(x, cls, moved, removed), channels[0], 1e-5)
            plan = merge_reference.match(x, cls, moved, removed)
            right = merge_reference.merge_add_norm(streams, None, plan, channels[0], 1e-5)
            pairs |= {f"merge's {name}": pair for name, pair in zip(("norm", "sum", "size"), zip(ours, right))}
    if operands.gradients:
        found, exact = (scan_gradients(scan, arguments) for scan in (kernels.selective_scan, scan_reference.selective_scan))
        pairs |= {f"scan's gradient of {name}": (found[name], exact[name]) for name in exact}
    for name, (value, expected) in pairs.items():
        error = float((value - expected).norm() / expected.norm())
        if not error < TOLERANCE:
            raise UnavailableError(f"the {kernels.name} {name} is off by {error:.1e} on this device; please report it")


def _build(name: str, operands: Operands) -> Kernels:
    try:
        kernels = BACKENDS[name](operands)
        with torch.autocast(operands.device, enabled=False):  # the first forward of a training in bf16 comes here, too
            self_test(kernels, operands)
    except RmeetoError:
        raise
    except Exception as error:  # compilers and drivers fail in many types; each means this backend cannot serve
        raise UnavailableError(f"the {name} kernels fail on this device ({type(error).__name__}: {error})") from error
    return kernels


@untraced  # a self-test that torch.compile traces fails, and the refusal would stand for the whole process
def select(backend: str, operands: Operands) -> Kernels:
    """The backend by name, or the best that works for `auto`.

    Raises `UsageError` for an unknown name and `UnavailableError` for a named backend that cannot run here.
    """
    return _select(backend, operands)


@functools.cache
def _select(backend: str, operands: Operands) -> Kernels:
    if backend != "auto":
        if backend not in BACKENDS:
            raise UsageError(f"unknown backend {backend!r}; choose auto, {', '.join(BACKENDS)}")
        return _build(backend, operands)
    refused: dict[str, str] = {}
    for name in PREFERENCE.get(operands.device, ("chunked",)):
        try:
            return replace(_build(name, operands), refused=refused)
        except UnavailableError as error:
            refused[name] = " ".join(str(error).split())
    raise UnavailableError(f"no backend works on {operands.device}: {'; '.join(refused.values())}")
