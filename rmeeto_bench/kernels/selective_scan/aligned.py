"""The scan of a sequence with gaps: the state keeps evolving where tokens were pruned (Hidden State Alignment).

With q_j the original position of the j-th kept token and a step of `pause` at each missing one,

    h_{q_j} = exp((delta_{q_j} + (q_j - q_{j-1} - 1) pause) A) h_{q_{j-1}} + delta_{q_j} B_{q_j} u_{q_j}

so a gap only makes the decay longer; without gaps it is the plain scan. Both directions come apart, as importance needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.selective_scan import chunked, stepwise

PAUSES = ("zero_input", "self")


def scan_directions(arguments: ScanArguments, gaps: Tensor | None = None, pause: str = "zero_input") -> Tensor:
    """Gated output of each direction in token order, not yet scaled: [2, B, L, D] in the dtype of u.

    gaps [2, B, L]: original steps from the kept neighbour a direction comes from, 1 for adjacent, None for all adjacent.
    pause: the step at a missing token, `zero_input` softplus(dt_bias), or `self` the kept token's own. Recurrence fp32.
    Raises `UsageError` for another pause.
    """
    a = arguments.promoted()
    scan_both = stepwise.scan_both if a.u.device.type == "cpu" else chunked.scan_both
    return (scan_both(a, *_times(a, gaps, pause)) * F.silu(a.z)).to(arguments.u.dtype)


def _times(a: ScanArguments, gaps: Tensor | None, pause: str) -> tuple[Tensor, Tensor]:
    """(step, time since the last kept token in scan order), both [2, B, L, D]."""
    if pause not in PAUSES:
        raise UsageError(f"the step at a missing token is {' or '.join(PAUSES)}, not {pause!r}")
    bias = a.dt_bias[:, None, None]
    delta = F.softplus(a.dt + bias)
    if gaps is None:
        return delta, delta
    missing = (gaps - 1).to(delta.dtype)[..., None]  # [2, B, L, 1]
    return delta, delta + missing * (delta if pause == "self" else F.softplus(bias))


def scan_through(
    selective_scan: Callable[[ScanArguments], Tensor], arguments: ScanArguments, gaps: Tensor, pause: str = "zero_input"
) -> Tensor:
    """The scaled sum of both directions with gaps, [B, L, D], on any backend's plain scan.

    A plain scan uses one step for both decay and input. With the longer time as its step and the input scaled by step / time
    it does the same recurrence. The part of D u that this scaling removes is added back. In fp32, as steps must not be rounded.
    """
    a = arguments.promoted()
    delta, elapsed = _times(a, gaps, pause)
    elapsed = elapsed.clamp(min=torch.finfo(a.u.dtype).tiny)
    share = delta / elapsed
    step_before_softplus = elapsed + torch.log(-torch.expm1(-elapsed))  # the inverse of softplus
    stretched = replace(a, u=a.u * share, dt=step_before_softplus - a.dt_bias[:, None, None])
    direct = (a.D[:, None, None] * (a.u - stretched.u)).sum(0)
    return (selective_scan(stretched) + a.scale * direct * F.silu(a.z)).to(arguments.u.dtype)
