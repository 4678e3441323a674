"""Images and their labels, from any layout."""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """`data.layouts.fashion_mnist`, the bundled set, loaded when it is first asked for."""
    if name == "fashion_mnist":
        return importlib.import_module("rmeeto_bench.data.layouts.fashion_mnist")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
