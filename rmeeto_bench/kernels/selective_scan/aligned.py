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
from rmeeto_bench.kernels.selective_scan.chunked import scan_direction

PAUSES = ("zero_input", "self")


def scan_directions(arguments: ScanArguments, gaps: Tensor | None = None, pause: str = "zero_input") -> Tensor:
    """Gated output of each direction in token order, not yet scaled: [2, B, L, D] in the dtype of u.

    gaps [2, B, L]: original steps from the kept neighbour a direction comes from, 1 for adjacent, None for all adjacent.
    pause: the step at a missing token, `zero_input` softplus(dt_bias), or `self` the kept token's own. Recurrence fp32.
    Raises `UsageError` for another pause.
    """
    a = arguments.promoted()
    gate = F.silu(a.z)
    y = []
    for direction in (0, 1):
        delta, elapsed = _times(a, direction, gaps, pause)
        y.append(scan_direction(a, direction, delta, elapsed) * gate)
    return torch.stack(y).to(arguments.u.dtype)


def _times(a: ScanArguments, direction: int, gaps: Tensor | None, pause: str) -> tuple[Tensor, Tensor]:
    """(step, time since the last kept token in scan order), both [B, L, D]."""
    if pause not in PAUSES:
        raise UsageError(f"the step at a missing token is {' or '.join(PAUSES)}, not {pause!r}")
    delta = F.softplus(a.dt[direction] + a.dt_bias[direction])
    if gaps is None:
        return delta, delta
    missing = (gaps[direction] - 1).to(delta.dtype)[..., None]  # [B, L, 1]
    return delta, delta + missing * (delta if pause == "self" else F.softplus(a.dt_bias[direction]))


def scan_through(
    selective_scan: Callable[[ScanArguments], Tensor], arguments: ScanArguments, gaps: Tensor, pause: str = "zero_input"
) -> Tensor:
    """The scaled sum of both directions with gaps, [B, L, D], on any backend's plain scan.

    A plain scan uses one step for both decay and input. With the longer time as its step and the input scaled by step / time
    it does the same recurrence. The part of D u that this scaling removes is added back. In fp32, as steps must not be rounded.
    """
    a = arguments.promoted()
    times = [_times(a, direction, gaps, pause) for direction in (0, 1)]
    elapsed = torch.stack([time for _, time in times]).clamp(min=torch.finfo(a.u.dtype).tiny)
    share = torch.stack([step for step, _ in times]) / elapsed
    step_before_softplus = elapsed + torch.log(-torch.expm1(-elapsed))  # the inverse of softplus
    stretched = replace(a, u=a.u * share, dt=step_before_softplus - a.dt_bias[:, None, None])
    direct = (a.D[:, None, None] * (a.u - stretched.u)).sum(0)
    return (selective_scan(stretched) + a.scale * direct * F.silu(a.z)).to(arguments.u.dtype)
