"""The backend on the paper's own kernels, without a GPU: in place of the two packages are their functions written in torch."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rmeeto_bench.kernels.registry import BACKENDS, Kernels, Operands
from rmeeto_bench.models.vim import Vim, VimConfig
from rmeeto_bench.reduction.config import ReductionConfig

SIZES = VimConfig(depth=3, embed_dim=16, img_size=64, num_classes=5)


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """Of mamba-ssm: u, delta, z [B, D, L], B and C [B, N, L]."""
    assert delta_softplus
    step = F.softplus(delta + delta_bias[:, None])
    h, out = torch.zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        h = (step[:, :, t, None] * A).exp() * h + (step[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
        out.append((h * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
    return torch.stack(out, dim=-1) * F.silu(z)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Of causal-conv1d: x [B, D, L], weight [D, K]."""
    assert activation == "silu"
    return F.silu(F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=x.shape[1]))


def rms_norm_fn(
    x: Tensor, weight: Tensor, bias: None, residual: Tensor | None, prenorm: bool, residual_in_fp32: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """Of mamba-ssm, by keywords that both of its major versions know."""
    assert prenorm
    assert residual_in_fp32
    total = x.float() if residual is None else x.float() + residual
    return (total * (total.square().mean(-1, keepdim=True) + eps).rsqrt() * weight).to(x.dtype), total


def backend(monkeypatch: pytest.MonkeyPatch, norm: str) -> Kernels:
    """The backend where the packages are installed; `norm`: the module that has the fused norm."""
    functions = {"mamba_ssm.ops.selective_scan_interface": selective_scan_fn, "causal_conv1d": causal_conv1d_fn}
    for package in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for name, function in (functions | {f"mamba_ssm.ops.triton.{norm}": rms_norm_fn}).items():
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    return BACKENDS["mamba_ssm"](Operands("cuda", 16, 4))


class Count(TorchDispatchMode):
    """Flips of tensors: what upstream returns needs three a block more."""

    flips = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.flips += function._schema.name == "aten::flip"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["layer_norm", "layernorm", "elsewhere"])
def test_a_model_in_upstream_s_sequence_answers_as_ours(monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    kernels = backend(monkeypatch, norm)
    torch.manual_seed(0)
    ours = Vim(SIZES, ReductionConfig(r=3), backend="reference").eval()
    images, flips = torch.randn(2, 3, 64, 64), {}
    with torch.no_grad():
        expected = ours(images)
    for returns in (False, True):
        theirs = Vim(SIZES, ReductionConfig(r=3), kernels=replace(kernels, returns=returns)).eval()
        theirs.load_state_dict(ours.state_dict())
        with torch.no_grad(), Count() as count:
            assert torch.allclose(theirs(images), expected, atol=1e-5)
        flips[returns] = count.flips
        assert theirs.merge_path.startswith("torch")
    assert flips[True] == flips[False] + 3 * SIZES.depth
