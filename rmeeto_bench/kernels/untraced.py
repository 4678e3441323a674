"""A decorator for functions that `torch.compile` must not trace: foreign code, and the choice of kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def untraced(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`torch.compiler.disable`, without its import of the compiler (three seconds) where nothing is compiled."""

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(function)(*arguments, **options)
        return function(*arguments, **options)

    call.__code__ = call.__code__.replace()  # type: ignore[attr-defined]  # the compiler counts its attempts by code object: each function has its own
    return call
