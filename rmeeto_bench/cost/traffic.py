"""The work of a merged Vim in fp16, kernel by kernel: bytes through DRAM, tensor-core, fp32 and special-function work.

Assumptions: activations and weights are fp16; every kernel reads its inputs and writes its outputs once; weights are
read once per batch; vectors of a channel's size (biases, norm weights) are left out; between kernels nothing stays in a
cache. Two ways to cut the model into kernels:

- `ideal`: fewest passes over DRAM: norm (and merge) in the prologue of in_proj, the convolutions of both directions in
  that of x_proj, dt_proj recomputed inside the bidirectional scan, an fp16 residual. Nobody has written these kernels;
  their time at datasheet rates is the hardware's limit.
- `fused`: kernels that exist: token-major, no flips, an fp32 residual, convolution, projections and scan each
  on their own, merging inside add + norm. This is how the Triton kernels of this package are cut.

Special functions per (token, channel): an exponential for each state and the softplus (ex2, lg2) per direction, SiLU
(ex2, rcp) of the convolution per direction and of the gate once. fp32 work: four multiply-adds or multiplications per
state, and what the softplus, D and the gate need. Warp instructions of the scan per 32 (token, channel) and direction
were counted in compiled code (a plain Triton kernel on sm_90: 4.7), or are a floor for a hand-written one (3.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from rmeeto_bench.cost.roofline import Operation
from rmeeto_bench.errors import UsageError
from rmeeto_bench.models.sizes import DeitConfig, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import merges, token_counts

HALF, SINGLE, INDEX = 2, 4, 8  # bytes of an element
CUTS = ("ideal", "fused")
SCAN_INSTRUCTIONS = {"ideal": 2.94 + 0.6, "fused": 4.73}
NORM_OPERATIONS = 6  # fp32, per element of add + RMSNorm


def model_operations(
    config: VimConfig | DeitConfig, reduction: ReductionConfig, batch_size: int, cut: str = "ideal"
) -> list[Operation]:
    """All kernels of one forward of `batch_size` images. Raises `UsageError` for an unknown cut or a model that is no Vim."""
    if cut not in CUTS:
        raise UsageError(f"kernels are cut as {' or '.join(CUTS)}, not {cut!r}")
    if not isinstance(config, VimConfig) or config.frames:
        raise UsageError("the traffic of this model is not described; the roofline knows Vim and VideoMamba on images")
    sizes = {"depth": config.depth, "initial_tokens": config.num_tokens}
    removed = merges(reduction, **sizes)
    found = [_patch_embedding(config, batch_size), _head(config, batch_size)]
    for block, tokens in enumerate(token_counts(reduction, **sizes)):
        before = tokens + removed.get(block, 0)
        if before > tokens:
            found.append(_match(config, batch_size, before))
        found.extend((_ideal_block if cut == "ideal" else _fused_block)(config, batch_size, tokens, before))
    return found


def _patch_embedding(config: VimConfig, batch: int) -> Operation:
    pixels = config.in_chans * config.img_size**2
    inputs = config.in_chans * config.patch_size**2
    C, P = config.embed_dim, config.num_patches
    return Operation("patch embedding", batch * (pixels + 3 * P * C) * HALF, 2.0 * batch * P * inputs * C)


def _head(config: VimConfig, batch: int) -> Operation:
    C, classes = config.embed_dim, config.num_classes
    return Operation("head", (batch * classes + C * classes) * HALF, 2.0 * batch * C * classes)


def _match(config: VimConfig, batch: int, tokens: int) -> Operation:
    """Norms, similarity, best destination, top r and index map of one merge at `tokens` tokens."""
    patches = tokens - 1
    similarity = 2.0 * batch * ((patches + 1) // 2) * (patches // 2) * config.embed_dim
    return Operation("match", batch * (tokens * config.embed_dim * HALF + patches * INDEX), similarity)


def _scan_work(config: VimConfig, rows: int) -> tuple[float, float]:
    """(fp32 operations, special functions) of the scan over `rows` tokens in both directions."""
    D, N = config.expand * config.embed_dim, config.d_state
    return 2 * rows * D * (4 * N + 8), rows * D * (2 * (N + 2) + 2)


def _convolution_work(config: VimConfig, rows: int) -> tuple[float, float]:
    D = config.expand * config.embed_dim
    return 2 * rows * D * 2 * config.d_conv, rows * D * 4


def _out_projection(config: VimConfig, rows: int) -> Operation:
    C, D = config.embed_dim, config.expand * config.embed_dim
    return Operation("out_proj", (rows * (D + C) + D * C) * HALF, 2.0 * rows * D * C)


def _ideal_block(config: VimConfig, batch: int, tokens: int, before: int) -> Iterator[Operation]:
    """A block as three kernels; `before` tokens come in, `tokens` are left after a merge."""
    C, D, R, N = config.embed_dim, config.expand * config.embed_dim, config.dt_rank, config.d_state
    rows, rows_before, X = batch * tokens, batch * before, R + 2 * N
    streams = 2 * rows_before * C + rows * C  # hidden and fp16 residual in, residual out
    yield Operation(
        "[merge +] norm + in_proj",
        (streams + 2 * C * D + rows * 2 * D) * HALF,
        2.0 * rows * C * 2 * D,
        rows * C * NORM_OPERATIONS,
    )
    convolution, silu = _convolution_work(config, rows)
    yield Operation(
        "convolutions + x_proj", (rows * D + 2 * rows * X + 2 * D * X) * HALF, 4.0 * rows * D * X, convolution, silu
    )
    scan, special = _scan_work(config, rows)
    yield Operation(
        "convolutions + dt_proj + bidirectional scan",
        (2 * rows * D + 2 * rows * X + rows * D) * HALF,
        0.0,
        scan + convolution + 2.0 * rows * D * R,
        special + silu,
        2 * rows * D * SCAN_INSTRUCTIONS["ideal"],
    )
    yield _out_projection(config, rows)


def _fused_block(config: VimConfig, batch: int, tokens: int, before: int) -> Iterator[Operation]:
    """A block as seven kernels; `before` tokens come in, `tokens` are left after a merge."""
    C, D, R, N = config.embed_dim, config.expand * config.embed_dim, config.dt_rank, config.d_state
    rows, rows_before, X = batch * tokens, batch * before, R + 2 * N
    yield Operation("[merge +] add + norm", (rows_before + rows) * C * (HALF + SINGLE), 0.0, rows * C * NORM_OPERATIONS)
    yield Operation("in_proj", (rows * C + 2 * C * D + rows * 2 * D) * HALF, 2.0 * rows * C * 2 * D)
    convolution, silu = _convolution_work(config, rows)
    yield Operation("convolutions", 3 * rows * D * HALF, 0.0, convolution, silu)
    yield Operation("x_proj", 2 * (rows * D + rows * X + D * X) * HALF, 4.0 * rows * D * X)
    yield Operation("dt_proj", 2 * (rows * R + rows * D + D * R) * HALF, 4.0 * rows * D * R)
    scan, special = _scan_work(config, rows)
    moved = 8 * rows * D + 4 * rows * N  # u and dt of both directions, z, the staged output and the sum; B and C
    instructions = 2 * rows * D * SCAN_INSTRUCTIONS["fused"]
    yield Operation("bidirectional scan", moved * HALF, 0.0, scan, special, instructions)
    yield _out_projection(config, rows)
