"""The public checkpoints of the paper, by name: data only (Vim's, VideoMamba's and DeiT's model zoos)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicCheckpoint:
    """A file on the hub. `top1` is the reported accuracy in percent, of the EMA weights where `ema` is set."""

    name: str
    model: str
    repo: str
    filename: str
    top1: float
    ema: bool = False
    note: str = ""


IN1K = (("tiny", 76.9), ("small", 81.2), ("middle", 82.8), ("base", 82.7))
K400 = (("tiny", 76.9), ("small", 79.3), ("middle", 80.6))


def _videomamba(name: str, file: str, top1: float, note: str = "") -> PublicCheckpoint:
    full = f"videomamba_{name}"
    return PublicCheckpoint(full, full, "OpenGVLab/VideoMamba", f"videomamba_{file}_res224.pth", top1, note=note)


PUBLIC: tuple[PublicCheckpoint, ...] = (
    PublicCheckpoint("vim_tiny", "vim_tiny", "hustvl/Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth", 76.1),
    PublicCheckpoint("vim_small", "vim_small", "hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth", 80.5),
    PublicCheckpoint(
        "vim_base",
        "vim_base",
        "hustvl/Vim-base-midclstok",
        "vim_b_midclstok_81p9acc.pth",
        81.9,
        True,
        "80.3 without EMA",
    ),
    *(_videomamba(f"{size}", f"{size[0]}16_in1k", top1) for size, top1 in IN1K),
    *(_videomamba(f"{size}_k400_f8", f"{size[0]}16_k400_f8", top1, "Kinetics-400") for size, top1 in K400),
    *(
        PublicCheckpoint(f"deit_{size}", f"deit_{size}", f"timm/deit_{size}_patch16_224.fb_in1k", "model.safetensors", top1)
        for size, top1 in (("tiny", 72.2), ("small", 79.8), ("base", 81.8))
    ),
)


def find(name: str) -> PublicCheckpoint | None:
    """The public checkpoint by name, or None."""
    return next((entry for entry in PUBLIC if entry.name == name), None)
