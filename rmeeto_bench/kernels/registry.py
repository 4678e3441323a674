"""Which implementation runs, and why not another: chosen once per model and device, never per call.

`auto` takes the first backend of the device's list that is there and passes a self-test against the reference.
Asking for a backend by name that cannot run is an error: a missing fast path never goes unnoticed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rmeeto_bench.errors import RmeetoError, UnavailableError, UsageError
from rmeeto_bench.kernels.add_norm import native as add_norm_native
from rmeeto_bench.kernels.add_norm import reference as add_norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import native as conv_native
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.native.build import library
from rmeeto_bench.kernels.selective_scan import chunked as scan_chunked
from rmeeto_bench.kernels.selective_scan import native as scan_native
from rmeeto_bench.kernels.selective_scan import reference as scan_reference

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Kernels:
    """One backend's three operations, and for each faster backend of `auto` the reason it was refused."""

    name: str
    selective_scan: Callable[[ScanArguments], Tensor]
    causal_conv1d: Callable[[Tensor, Tensor, Tensor], Tensor]
    add_norm: Callable[[Tensor, Tensor | None, Tensor, float], tuple[Tensor, Tensor]]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operands:
    """What decides whether a backend can serve a model: the device kind and two sizes of the mixer."""

    device: str
    d_state: int
    d_conv: int


REFERENCE = Kernels("reference", scan_reference.selective_scan, conv_reference.causal_conv1d, add_norm_reference.add_norm)
CHUNKED = Kernels("chunked", scan_chunked.selective_scan, conv_reference.causal_conv1d, add_norm_reference.add_norm)
NATIVE = Kernels("native", scan_native.selective_scan, conv_native.causal_conv1d, add_norm_native.add_norm)


def _native_ready(operands: Operands) -> None:
    if operands.device != "cpu":
        raise UnavailableError(f"the native kernels are for the CPU, this model is on {operands.device}")
    if operands.d_state not in scan_native.STATES or operands.d_conv != conv_native.WIDTH:
        raise UnavailableError(
            f"the native kernels serve d_state {scan_native.STATES} and d_conv {conv_native.WIDTH}, "
            f"this model has {operands.d_state} and {operands.d_conv}"
        )
    library()


def _always_ready(_: Operands) -> None:
    return None


READY: dict[str, tuple[Kernels, Callable[[Operands], None]]] = {
    "native": (NATIVE, _native_ready),
    "chunked": (CHUNKED, _always_ready),
    "reference": (REFERENCE, _always_ready),
}
PREFERENCE = {"cpu": ("native", "chunked"), "cuda": ("chunked",)}


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


def self_test(kernels: Kernels, operands: Operands) -> None:
    """Compare the backend's scan with the reference on small operands. Raises `UnavailableError` beyond 1e-3 relative."""
    arguments = sample_arguments(operands.device, operands.d_state)
    expected = scan_reference.selective_scan(arguments)
    error = float((kernels.selective_scan(arguments) - expected).norm() / expected.norm())
    if not error < TOLERANCE:
        raise UnavailableError(f"the {kernels.name} scan is off by {error:.1e} on this device; please report it")


@functools.cache
def select(backend: str, operands: Operands) -> Kernels:
    """The backend by name, or the best that works for `auto`.

    Raises `UsageError` for an unknown name and `UnavailableError` for a named backend that cannot run here.
    """
    if backend != "auto":
        if backend not in READY:
            raise UsageError(f"unknown backend {backend!r}; choose auto, {', '.join(READY)}")
        kernels, ready = READY[backend]
        ready(operands)
        self_test(kernels, operands)
        return kernels
    refused: dict[str, str] = {}
    for name in PREFERENCE.get(operands.device, ("chunked",)):
        kernels, ready = READY[name]
        try:
            ready(operands)
            self_test(kernels, operands)
        except RmeetoError as error:
            refused[name] = str(error)
            continue
        return Kernels(kernels.name, kernels.selective_scan, kernels.causal_conv1d, kernels.add_norm, dict(refused))
    raise UnavailableError(f"no backend works on {operands.device}: {'; '.join(refused.values())}")
