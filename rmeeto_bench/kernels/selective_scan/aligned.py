"""The scan of a sequence with gaps: the state goes on evolving where tokens were pruned (Hidden State Alignment).

With q_j the original position of the j-th kept token and a step of `pause` at each missing one,

    h_{q_j} = exp((delta_{q_j} + (q_j - q_{j-1} - 1) pause) A) h_{q_{j-1}} + delta_{q_j} B_{q_j} u_{q_j}

so a gap only makes the decay longer; without gaps it is the plain scan. Both directions come apart, as importance needs.
"""

from __future__ import annotations

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
    if pause not in PAUSES:
        raise UsageError(f"the step at a missing token is {' or '.join(PAUSES)}, not {pause!r}")
    a = arguments.promoted()
    gate = F.silu(a.z)
    y = []
    for direction in (0, 1):
        delta = F.softplus(a.dt[direction] + a.dt_bias[direction])  # [B, L, D]
        elapsed = delta
        if gaps is not None:
            missing = (gaps[direction] - 1).to(delta.dtype)[..., None]  # [B, L, 1]
            elapsed = delta + missing * (delta if pause == "self" else F.softplus(a.dt_bias[direction]))
        y.append(scan_direction(a, direction, delta, elapsed) * gate)
    return torch.stack(y).to(arguments.u.dtype)
