"""Random operands for the kernels and what float64 makes of them: the same case for the same number, always."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto_bench.kernels.add_norm import reference as norm_reference
from rmeeto_bench.kernels.arguments import ScanArguments
from rmeeto_bench.kernels.causal_conv1d import reference as conv_reference
from rmeeto_bench.kernels.merge.plan import MergePlan
from rmeeto_bench.kernels.selective_scan import reference as scan_reference

DTYPES = (torch.float32, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("plain", "columns", "first exchanged", "last exchanged", "expanded", "every second", "odd address", "loose")
EXTREMES = ("none", "none", "none", "large", "small", "zeros", "inf", "nan")
LENGTHS, WIDTHS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31), (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 33)
LARGE = {torch.float32: 1e3, torch.bfloat16: 1e3, torch.float16: 30.0}  # fp16 ends at 65504, which sums must not reach
TOLERANCE = 2e-5  # beside a few times the error of the reference in the same precision

Operation = Callable[..., Tensor | tuple[Tensor, ...]]


def laid_out(tensor: Tensor, how: str) -> Tensor:
    """A tensor of this shape in another layout; the same values, but for the expanded one."""
    if how == "columns":
        wide = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + 5), math.nan)
        wide[..., 3:-2] = tensor
        return wide[..., 3:-2]
    if how == "first exchanged" and tensor.dim() > 1:
        return tensor.transpose(0, -2).contiguous().transpose(0, -2)
    if how == "last exchanged" and tensor.dim() > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "expanded":
        return tensor[..., :1, :].expand(tensor.shape) if tensor.dim() > 1 else tensor[:1].expand(tensor.shape)
    if how == "every second":
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if how == "odd address":
        flat = tensor.new_full((tensor.numel() + 1,), math.nan)
        flat[1:] = tensor.reshape(-1)
        return flat[1:].view(tensor.shape)
    if how == "loose" and 1 in tensor.shape:  # strides of dimensions of size 1 may be anything
        strides = [7 if size == 1 else step for size, step in zip(tensor.shape, tensor.stride())]
        return tensor.as_strided(tensor.shape, strides)
    return tensor


@dataclass
class Draw:
    """Random numbers of one case."""

    number: int

    def __post_init__(self) -> None:
        self.choices = random.Random(self.number)
        self.generator = torch.Generator().manual_seed(self.number)
        self.said: list[str] = []

    def one(self, name: str, options: Sequence[object]) -> object:
        chosen = self.choices.choice(options)
        self.said.append(f"{name} {chosen}")
        return chosen

    def tensor(
        self, name: str, *shape: int, dtype: torch.dtype = torch.float32, plain: bool = False, at: float = 1.0
    ) -> Tensor:
        """Normal values times `at`, with what is extreme in this case, in a layout of its own."""
        values = at * torch.randn(*shape, generator=self.generator)
        if not plain:
            extreme = self.one(f"{name}:", EXTREMES)
            if extreme in ("large", "small"):
                values = values * (LARGE[dtype] if extreme == "large" else 1e-6)
            elif extreme == "zeros":
                values = torch.zeros_like(values)
            elif extreme in ("inf", "nan") and values.numel():
                values.view(-1)[self.choices.randrange(values.numel())] = math.inf if extreme == "inf" else math.nan
        layout = str(self.one(f"{name}:", LAYOUTS))
        return laid_out(values.to(dtype), layout)


Case = dict[str, Tensor | None]


def scan_case(draw: Draw, states: Sequence[int] = (4, 8, 16)) -> tuple[Case, Operation, Operation]:
    """Operands, the operation on a scan, and its reference."""
    batch, length, width = draw.choices.randint(1, 3), draw.one("L", LENGTHS), draw.one("D", WIDTHS)
    N, dtype = draw.one("N", states), draw.one("", DTYPES)
    middle, spread = draw.one("dt", (-60.0, -20.0, -3.0, 0.0, 19.0, 60.0)), draw.one("+-", (0.1, 3.0))
    row = (2, batch, length)
    dt = laid_out(
        (middle + spread * torch.randn(*row, width, generator=draw.generator)).to(dtype), str(draw.one("dt:", LAYOUTS))
    )
    operands: Case = {
        "u": draw.tensor("u", *row, width, dtype=dtype),
        "dt": dt,
        "A": -draw.tensor("A", 2, width, N, plain=True).exp() * draw.one("A", (1.0, 1.0, 100.0, 1e-4)),
        "B": draw.tensor("B", *row, N, dtype=dtype),
        "C": draw.tensor("C", *row, N, dtype=dtype),
        "D": draw.tensor("D", 2, width, plain=True),
        "z": draw.tensor("z", batch, length, width, dtype=dtype),
        "dt_bias": draw.tensor("bias", 2, width, plain=True),
    }
    scale = draw.one("scale", (0.5, 1.0))

    def over(scan: Callable[[ScanArguments], Tensor]) -> Operation:
        return lambda **given: scan(ScanArguments(**given, scale=scale))

    return operands, over, over(scan_reference.selective_scan)


def conv_case(draw: Draw) -> tuple[Case, Operation, Operation]:
    batch, length, width = draw.choices.randint(1, 3), draw.one("L", LENGTHS), draw.one("D", WIDTHS)
    dtype = draw.one("", DTYPES)
    operands: Case = {
        "x": draw.tensor("x", batch, length, width, dtype=dtype),
        "weight": draw.tensor("weight", 2, width, 4, dtype=dtype, plain=True),
        "bias": draw.tensor("bias", 2, width, dtype=dtype, plain=True),
    }

    def over(conv: Callable[..., Tensor]) -> Operation:
        return conv

    return operands, over, conv_reference.causal_conv1d


def norm_case(draw: Draw) -> tuple[Case, Operation, Operation]:
    batch, length, width = draw.choices.randint(1, 3), draw.one("L", LENGTHS), draw.one("C", (*WIDTHS, 257))
    dtype = draw.one("", DTYPES)
    residual = draw.one("residual", ("none", "fp32", "half"))
    kept = (
        None
        if residual == "none"
        else draw.tensor("r", batch, length, width, dtype=dtype if residual == "half" else torch.float32)
    )
    operands: Case = {
        "hidden": draw.tensor("hidden", batch, length, width, dtype=dtype),
        "residual": kept,
        "weight": draw.tensor("weight", width, plain=True),
    }

    def over(norm: Callable[..., tuple[Tensor, Tensor]]) -> Operation:
        return lambda hidden, residual, weight: norm(hidden, residual, weight, 1e-5)

    return operands, over, over(norm_reference.add_norm)


def results(operation: Operation, operands: Case, number: int, *, double: bool, gradients: bool) -> dict[str, Tensor]:
    """Outputs and, for a loss of random weights, the gradients of all operands."""

    def leaf(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return (tensor.double() if double else tensor).detach().requires_grad_(gradients)

    leaves = {name: leaf(tensor) for name, tensor in operands.items()}
    out = operation(**leaves)
    outputs = {f"output {i}": each for i, each in enumerate((out,) if isinstance(out, Tensor) else out)}
    if not gradients:
        return outputs
    generator = torch.Generator().manual_seed(number)
    weights = [torch.randn(each.shape, generator=generator).to(each.dtype) for each in outputs.values()]
    if number % 3 == 0:  # as the sum of the outputs has it: one number, expanded
        weights = [torch.ones((), dtype=each.dtype).expand(each.shape) for each in outputs.values()]
    given = {name: each for name, each in leaves.items() if each is not None}
    found = torch.autograd.grad(list(outputs.values()), list(given.values()), weights, allow_unused=True)
    return outputs | {f"gradient of {name}": each for name, each in zip(given, found) if each is not None}


def error(found: Tensor, exact: Tensor, where: Tensor) -> float:
    """Of the values there: the norm of the difference by the norm."""
    difference = torch.where(where, found.double() - exact, 0.0).norm()
    return float((difference / torch.where(where, exact, 0.0).norm().clamp(min=1e-14)).detach())


def wrong(found: Mapping[str, Tensor], plain: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> list[str]:
    """What is not as the reference: `plain` in the same precision, `exact` in float64.

    Values that both have as finite must be so and close; what neither has as finite must not become a number.
    """
    problems = []
    for name, right in exact.items():
        mine, same = found[name], plain[name]
        if (mine.shape, mine.dtype) != (same.shape, same.dtype):
            problems.append(f"{name} is {tuple(mine.shape)} {mine.dtype}, not {tuple(same.shape)} {same.dtype}")
            continue
        finite = right.isfinite() & same.isfinite()
        lost = ~right.isfinite() & ~same.isfinite()
        if not bool(mine[finite].isfinite().all()):
            problems.append(f"{name} is not finite in {int((~mine[finite].isfinite()).sum())} of {int(finite.sum())} places")
            continue
        if bool(mine[lost].isfinite().any()):
            problems.append(f"{name} hides {int(mine[lost].isfinite().sum())} of {int(lost.sum())} values that are inf or nan")
        digits = 2 * torch.finfo(mine.dtype).eps if mine.dtype != torch.float32 else 0.0
        allowed = TOLERANCE + digits + 8 * error(same, right, finite)
        off = error(mine, right, finite)
        if not off <= allowed:
            problems.append(f"{name} is off by {off:.1e}, allowed {allowed:.1e}")
    return problems


def matching_problems(plan: MergePlan, metric: Tensor, place: tuple[int, int], r: int) -> list[str]:
    """What is wrong with a matching, judged by scores in float64: near ties may fall either way."""
    cls, moved = place
    length = metric.shape[1]
    rows = [row for row in range(length) if row != cls]
    problems = []
    for image, values in enumerate(metric.double()):
        survivors, merged, slots = (part[image].tolist() for part in (plan.survivors, plan.merged, plan.slots))
        if sorted([*survivors, *merged]) != list(range(length)):
            problems.append(f"image {image}: {survivors} and {merged} are not all tokens once")
            continue
        kept = [row for row in rows if row not in merged]
        kept.insert(moved, cls)
        if survivors != kept or not all(rows.index(row) % 2 == 0 for row in merged):
            problems.append(f"image {image}: the order {survivors} or the sources {merged}")
        if not bool(values.isfinite().all()):
            continue  # which tokens are chosen is open then
        unit = values[rows] / values[rows].norm(dim=1, keepdim=True).clamp(min=1e-37)
        scores = unit[0::2] @ unit[1::2].T
        best = scores.max(dim=1).values
        chosen = [rows.index(row) // 2 for row in merged]
        others = [float(score) for i, score in enumerate(best) if i not in chosen]
        if others and min(float(best[i]) for i in chosen) < max(others) - 1e-5:
            problems.append(f"image {image}: closer pairs were left")
        for source, slot in zip(chosen, slots):
            target = survivors[slot]
            if target == cls or rows.index(target) % 2 == 0 or scores[source, rows.index(target) // 2] < best[source] - 1e-5:
                problems.append(f"image {image}: source {source} went to {target}")
    return problems


def merged_exactly(streams: tuple[Tensor, Tensor], size: Tensor | None, plan: MergePlan, weight: Tensor) -> tuple[Tensor, ...]:
    """The merge of a plan in float64, token by token: (normed, residual, size)."""
    total = streams[0].double() + streams[1].double()
    weights = torch.ones_like(total[..., :1]) if size is None else size.double()
    keep, gone, slots = plan.survivors.long(), plan.merged.long(), plan.slots.long()
    sums, sizes = [], []
    for image in range(len(total)):
        summed = total[image, keep[image]] * weights[image, keep[image]]
        summed = summed.index_add(0, slots[image], total[image, gone[image]] * weights[image, gone[image]])
        group = weights[image, keep[image]].index_add(0, slots[image], weights[image, gone[image]])
        sums.append(summed / group)
        sizes.append(group)
    merged = torch.stack(sums)
    return norm_reference.add_norm(merged, None, weight.double(), 1e-5)[0], merged, torch.stack(sizes)
