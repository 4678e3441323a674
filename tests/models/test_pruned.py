"""The pruning baselines: the plain model where nothing is dropped, exact arithmetic where something is."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rmeeto_bench as rb
from rmeeto_bench.cost.flops import count_flops
from rmeeto_bench.errors import UsageError
from rmeeto_bench.kernels.registry import Operands, sample_arguments, select
from rmeeto_bench.kernels.selective_scan.aligned import scan_directions, scan_through
from rmeeto_bench.models.sizes import config
from rmeeto_bench.reduction.config import Pruning
from rmeeto_bench.reduction.pruning import (
    HiddenStateAlignment,
    TokenRecognition,
    gaps_between,
    implicit_attention,
    keep_patches,
    most_important,
)

SMALL = {"depth": 8, "embed_dim": 16}
EARLY = {"start": 2, "gap": 2, "before": 7}
METHODS = [
    *(TokenRecognition(scorer=s, resort=resort, fuse=fuse, **EARLY) for s in ("implicit", "cls_cosine", "norm")
      for resort, fuse in itertools.product((False, True), repeat=2)),
    *(HiddenStateAlignment(importance=i, alignment=a, **EARLY) for i in ("backward", "sum")
      for a in ("zero_input", "self", "masked")),
]  # fmt: skip


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def seeded(pruning: Pruning | None, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return rb.create_model("vim_nano", pruning=pruning, **{**SMALL, **changes})


@pytest.mark.parametrize(
    "pruning", [HiddenStateAlignment(keep=1.0, alignment=a, **EARLY) for a in ("zero_input", "self", "masked")]
    + [TokenRecognition(keep=1.0, **EARLY)], ids=str
)  # fmt: skip
@torch.inference_mode()
def test_with_nothing_pruned_it_is_the_plain_model(pruning: Pruning) -> None:
    plain = seeded(None)
    model = seeded(pruning)
    model.load_state_dict(plain.state_dict(), strict=True)
    assert torch.allclose(model(images()), plain(images()), atol=1e-5)
    assert set(model.token_counts()) == {197}


@pytest.mark.parametrize("pruning", METHODS, ids=str)
@torch.inference_mode()
def test_every_variant_runs_to_its_schedule_image_by_image(pruning: Pruning) -> None:
    model = seeded(pruning)
    together = model(images())
    assert model.token_counts() == model.planned_token_counts()
    assert model.token_counts()[-1] < 120
    alone = torch.cat([model(image[None]) for image in images()])
    assert torch.allclose(together, alone, atol=1e-5)


def loop(arguments, kept: Tensor, length: int, pause: str) -> Tensor:
    """Both directions through every original position, one image, float64: a missing token decays and adds nothing."""
    a = arguments.promoted()
    out = torch.zeros(2, *a.z.shape, dtype=torch.float64)
    places = kept.tolist()
    for direction in (0, 1):
        walk = range(length) if direction == 0 else range(length - 1, -1, -1)
        delta = F.softplus(a.dt[direction, 0] + a.dt_bias[direction])  # [L, D]
        h = torch.zeros(a.z.shape[2], a.A.shape[2], dtype=torch.float64)
        started = False
        for place in walk:
            if place in places:
                j = places.index(place)
                step = delta[j][:, None]
                h = torch.exp(step * a.A[direction]) * h + step * a.B[direction, 0, j] * a.u[direction, 0, j][:, None]
                y = (h * a.C[direction, 0, j]).sum(1) + a.D[direction] * a.u[direction, 0, j]
                out[direction, 0, j] = y * F.silu(a.z[0, j])
                started = True
            elif started:
                ahead = [p for p in places if (p > place if direction == 0 else p < place)]
                following = (min(ahead) if direction == 0 else max(ahead)) if ahead else None
                if following is not None:
                    empty = F.softplus(a.dt_bias[direction])
                    step = empty if pause == "zero_input" else delta[places.index(following)]
                    h = torch.exp(step[:, None] * a.A[direction]) * h
    return out


def double(arguments):
    from dataclasses import fields, replace

    tensors = {f.name: getattr(arguments, f.name).double() for f in fields(arguments) if f.name != "scale"}
    return replace(arguments, **tensors)


def one_image(arguments):
    from dataclasses import replace

    cut = {name: getattr(arguments, name)[:, :1] for name in ("u", "dt", "B", "C")}
    return replace(arguments, z=arguments.z[:1], **cut)


@pytest.mark.parametrize("pause", ["zero_input", "self"])
@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 5, 6], [0, 2, 3, 9, 10, 17, 29], [5, 6, 20, 21, 22, 30, 39]])
def test_the_scan_evolves_through_the_gaps_as_a_float64_loop_does(kept: list[int], pause: str) -> None:
    arguments = one_image(double(sample_arguments("cpu", 4, length=7)))
    index = torch.tensor([kept])
    gaps = gaps_between(index, 7)[..., :7]  # a class token behind all patches, cut off
    found = scan_directions(arguments, gaps, pause)
    assert torch.allclose(found, loop(arguments, index[0], 40, pause), atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("pause", ["zero_input", "self"])
def test_a_plain_scan_can_be_made_to_evolve_through_gaps(backend: str, pause: str) -> None:
    kernels = select(backend, Operands("cpu", 8, 4))
    arguments = sample_arguments("cpu", 8, length=19)
    gaps = gaps_between(torch.arange(19).cumsum(0).expand(2, -1), 9)[..., :19]
    expected = 0.5 * scan_directions(arguments, gaps, pause).sum(0)
    assert torch.allclose(scan_through(kernels.selective_scan, arguments, gaps, pause), expected, atol=1e-4)


def test_without_gaps_the_directions_add_up_to_the_scan() -> None:
    from rmeeto_bench.kernels.selective_scan.reference import selective_scan

    arguments = sample_arguments("cpu", 8, length=19)
    assert torch.allclose(0.5 * scan_directions(arguments).sum(0), selective_scan(arguments), atol=1e-5)
    with pytest.raises(UsageError, match="zero_input or self"):
        scan_directions(arguments, None, "masked")


def test_gaps_are_counted_over_patches() -> None:
    gaps = gaps_between(torch.tensor([[0, 3, 4, 9]]), 2)
    assert gaps[0, 0].tolist() == [1, 3, 1, 1, 5]
    assert gaps[1, 0].tolist() == [3, 1, 1, 5, 1]


def test_implicit_attention_is_the_derivative_of_the_class_output() -> None:
    """alpha is |d y_c / d u_j| averaged over channels: the scan is linear in u."""
    arguments = one_image(double(sample_arguments("cpu", 4, length=9)))
    c = 4
    delta = F.softplus(arguments.dt + arguments.dt_bias[:, None, None])
    found = implicit_attention(delta, arguments.A, arguments.B, arguments.C, c)
    from dataclasses import replace

    u = arguments.u.clone().requires_grad_()
    flat = replace(arguments, u=u, D=torch.zeros_like(arguments.D))
    y = scan_directions(flat) / F.silu(arguments.z)
    for j in range(9):
        direction = 0 if j <= c else 1
        per_channel = [
            torch.autograd.grad(y[direction, 0, c, d], u, retain_graph=True)[0][direction, 0, j, d] for d in range(20)
        ]
        assert float(found[0, j]) == pytest.approx(float(torch.stack(per_channel).abs().mean()), rel=1e-4)


def test_patches_are_kept_by_score_and_the_rest_is_fused() -> None:
    x = torch.arange(6.0).view(1, 6, 1)  # the class token is row 2, patches are 0 1 3 4 5
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3]])
    by_score, by_place = (most_important(scores, 3, resort=resort) for resort in (False, True))
    assert keep_patches(x, by_score, (2, 1)).flatten().tolist() == [1, 2, 4, 5]
    assert keep_patches(x, by_place, (2, 1)).flatten().tolist() == [1, 2, 4, 5]
    by_score = most_important(torch.tensor([[0.1, 0.8, 0.2, 0.9, 0.3]]), 3, resort=False)
    fused = torch.tensor([[0.1, 0.0, 0.2, 0.0, 0.0]])
    assert keep_patches(x, by_score, (2, 2), fused).flatten().tolist() == pytest.approx([4, 1, 2, 5, 0.1 * 0 + 0.2 * 3])


def test_a_masked_patch_stays_empty_through_all_blocks() -> None:
    model = seeded(HiddenStateAlignment(alignment="masked", **EARLY))
    with torch.inference_mode():
        tokens = model.forward_tokens(images())
    empty = (tokens.residual.abs().sum(-1) == 0) & (tokens.hidden.abs().sum(-1) == 0)
    assert empty.sum(1).tolist() == [197 - tokens.counts[-1]] * 3


@pytest.mark.parametrize(
    ("name", "pruning", "counts", "gflops"),
    [
        ("vim_tiny", HiddenStateAlignment(), {197, 157, 125}, 1.242),
        ("vim_small", HiddenStateAlignment(start=5, gap=5, before=20), {197, 157, 125, 101}, 3.565),
    ],
)
def test_the_published_schedules_cost_what_was_published(name: str, pruning: Pruning, counts: set, gflops: float) -> None:
    sized = config(name)
    assert set(pruning.token_counts(depth=24, initial_tokens=197)) == counts
    assert count_flops(sized, pruning).total == pytest.approx(gflops, abs=6e-4)


def test_gradients_pass_through_pruned_models() -> None:
    for pruning in (METHODS[0], HiddenStateAlignment(**EARLY)):
        model = seeded(pruning).train()
        model(images()).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bad_settings_are_refused() -> None:
    for bad in ({"keep": 0.0}, {"keep": 1.2}, {"start": 0}, {"scorer": "attention"}):
        with pytest.raises(UsageError):
            TokenRecognition(**bad)
    with pytest.raises(UsageError):
        HiddenStateAlignment(alignment="zero")
    with pytest.raises(UsageError, match="Mamba models"):
        rb.create_model("deit_tiny", pruning=TokenRecognition())
    with pytest.raises(UsageError, match="one of r"):
        rb.create_model("vim_nano", r=5, pruning=TokenRecognition())
