"""The public checkpoints of the paper, by name: data only (Vim's, VideoMamba's and R-MeeTo's model zoos)."""

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
)


def find(name: str) -> PublicCheckpoint | None:
    """The public checkpoint by name, or None."""
    return next((entry for entry in PUBLIC if entry.name == name), None)
