"""Speed and accuracy of token-merged Vision Mamba.

The public names below are loaded when they are first used, so that importing the package costs nothing. Once it is
imported, `timm.create_model("vim_small_patch16_224.rmeeto_r11")` works too, in either order.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rmeeto_bench.models import timm_hook as _timm_hook
from rmeeto_bench.version import __version__

if TYPE_CHECKING:
    from rmeeto_bench.api import load_run, measure, resume, run
    from rmeeto_bench.bench.plan.plan import BenchPlan
    from rmeeto_bench.checkpoints.reader import load_checkpoint
    from rmeeto_bench.models.zoo import create_model
    from rmeeto_bench.reduction.config import Ablation, ReductionConfig, VitOptions
    from rmeeto_bench.reduction.merging import MergeResult, merge_tokens
    from rmeeto_bench.reduction.pruning import HiddenStateAlignment, TokenRecognition

__all__ = [
    "Ablation",
    "BenchPlan",
    "HiddenStateAlignment",
    "MergeResult",
    "ReductionConfig",
    "TokenRecognition",
    "VitOptions",
    "__version__",
    "create_model",
    "load_checkpoint",
    "load_run",
    "measure",
    "merge_tokens",
    "resume",
    "run",
]
_HOME = {
    "Ablation": "reduction.config",
    "HiddenStateAlignment": "reduction.pruning",
    "TokenRecognition": "reduction.pruning",
    "VitOptions": "reduction.config",
    "BenchPlan": "bench.plan.plan",
    "MergeResult": "reduction.merging",
    "ReductionConfig": "reduction.config",
    "create_model": "models.zoo",
    "load_checkpoint": "checkpoints.reader",
    "load_run": "api",
    "merge_tokens": "reduction.merging",
    "resume": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rmeeto_bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rmeeto_bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)


class _Callable(ModuleType):
    """The package of the measuring loop has the name that `rb.measure({...})` needs: called, it is that function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("rmeeto_bench.api").measure(*arguments, **options)


importlib.import_module("rmeeto_bench.measure").__class__ = _Callable
_timm_hook.install()
