"""A backward for forward-only kernels: it runs a differentiable implementation of the same operation again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fast: Callable[..., Any], slow: Callable[..., Any], *operands: Tensor | None) -> Any:
        ctx.slow = slow
        ctx.missing = [operand is None for operand in operands]
        ctx.save_for_backward(*(operand for operand in operands if operand is not None))
        return fast(*operands)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        operands = [None if missing else next(saved).detach() for missing in ctx.missing]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        with torch.enable_grad():
            for i in wanted:
                operand = operands[i]
                assert operand is not None
                operands[i] = operand.requires_grad_()
            outputs = ctx.slow(*operands)
        results: Sequence[Tensor] = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [(out, grad) for out, grad in zip(results, gradients, strict=True) if grad is not None]
        leaves = [operand for i, operand in enumerate(operands) if i in wanted and operand is not None]
        found = torch.autograd.grad([out for out, _ in pairs], leaves, [grad for _, grad in pairs])
        all_gradients: list[Tensor | None] = [None] * len(operands)
        for i, gradient in zip(wanted, found, strict=True):
            all_gradients[i] = gradient
        return None, None, *all_gradients


def with_gradients(fast: Callable[..., Any], slow: Callable[..., Any], *operands: Tensor | None) -> Any:
    """`fast(*operands)`, with the gradients of `slow(*operands)` if gradients are needed."""
    if not torch.is_grad_enabled() or not any(operand is not None and operand.requires_grad for operand in operands):
        return fast(*operands)
    return _Recompute.apply(fast, slow, *operands)
