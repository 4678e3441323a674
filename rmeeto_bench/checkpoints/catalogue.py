"""The public checkpoints by name: data only (the model zoos of Vim, VideoMamba, DeiT, ToMe and R-MeeTo)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmeeto_bench.reduction.config import ReductionConfig, tome

TOME = "ToMe"
BUNDLED = Path(__file__).parents[1] / "bundled" / "vim_nano"
VIM_LICENCE = "Apache-2.0"
RMEETO = "Soptq/R-Meeto"
VIDEOMAMBA = "OpenGVLab/VideoMamba"
FACEBOOK = "https://dl.fbaipublicfiles.com/"
TRAINED_FILES = ("model_best.pth", "checkpoint.pth")  # what the image training writes; which of them was uploaded is not said
VIDEO_FILES = ("checkpoint-best.pth", "checkpoint-latest.pth")


def bundled_checkpoint(name: str, r: int) -> Path | None:
    """The checkpoint shipped for this model at this r, if there is one."""
    path = BUNDLED / f"{name}_r{r}.safetensors"
    return path if path.is_file() else None


@dataclass(frozen=True)
class PublicCheckpoint:
    """A public file of weights."""

    name: str  # that users give
    model: str  # name of the model it is for
    repo: str  # repository on the hub, or the folder of a plain download (https)
    filenames: tuple[str, ...]  # names to try in order; the first that is there is taken
    top1: float  # reported accuracy in percent, of the EMA weights where `ema` is set
    r: int = 0  # tokens that each merge removed in its training; 0: no merging
    task: str = "IN1K"  # data set it was trained on
    ema: bool = False  # whether its averaged weights are meant
    licence: str | None = None  # of the weights; None: not stated
    # full, or the leading digits that its publisher put into the name; None: nobody has hashed the file
    sha256: str | None = None
    size: int | None = None  # bytes; None: unknown
    note: str = ""  # what a user should know

    @property
    def reduction(self) -> ReductionConfig:
        """What it was trained with: the paper's method, or ToMe's."""
        return tome(self.r) if self.note == TOME else ReductionConfig(r=self.r)

    @property
    def filename(self) -> str:
        """The likeliest name."""
        return self.filenames[0]

    @property
    def address(self) -> str:
        """Where a person finds it."""
        return f"{self.repo}/{self.filename}" if self.repo.startswith("https://") else f"{self.repo}:{self.filename}"


def _vim(model: str, repo: str, filename: str, top1: float, *, ema: bool = False, note: str = "") -> PublicCheckpoint:
    return PublicCheckpoint(model, model, repo, (filename,), top1, ema=ema, licence=VIM_LICENCE, note=note)


def _videomamba(size: str, letter: str, top1: float, task: str, note: str = "") -> PublicCheckpoint:
    video = task == "K400"
    model = f"videomamba_{size}" + ("_k400_f8" if video else "")
    end = "k400_f8_res224" if video else "in1k_res224"
    return PublicCheckpoint(
        model, model, VIDEOMAMBA, (f"videomamba_{letter}16_{end}.pth",), top1, task=task, licence="Apache-2.0", note=note
    )


def _deit(size: str, digest: str, top1: float) -> PublicCheckpoint:
    model = f"deit_{size}"
    filename = f"deit_{size}_patch16_224-{digest}.pth"
    return PublicCheckpoint(model, model, FACEBOOK + "deit", (filename,), top1, licence="Apache-2.0", sha256=digest)


def _tome(size: str, letter: str, top1: float) -> PublicCheckpoint:
    model = f"deit_{size}"
    filename = f"f367470145_deit_{letter}_r13.pth"
    name = f"{model}_tome_r13"
    return PublicCheckpoint(name, model, FACEBOOK + "tome", (filename,), top1, r=13, licence="CC-BY-NC-4.0", note=TOME)


def _rmeeto(model: str, r: int, folder: str, top1: float, *, ema: bool = False, note: str = "") -> PublicCheckpoint:
    video = model.endswith("_k400_f8")
    files = tuple(f"{folder}/{file}" for file in (VIDEO_FILES if video else TRAINED_FILES))
    task = "K400" if video else "IN1K"
    return PublicCheckpoint(f"{model}_rmeeto_r{r}", model, RMEETO, files, top1, r=r, task=task, ema=ema, note=note)


PUBLIC: tuple[PublicCheckpoint, ...] = (
    _vim("vim_tiny", "hustvl/Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth", 76.1),
    _vim("vim_small", "hustvl/Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth", 80.5),
    _vim("vim_base", "hustvl/Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth", 81.9, ema=True, note="80.3 without EMA"),
    _videomamba("tiny", "t", 76.9, "IN1K"),
    _videomamba("small", "s", 81.2, "IN1K"),
    _videomamba("middle", "m", 82.8, "IN1K", "self-distilled"),
    _videomamba("base", "b", 82.7, "IN1K", "self-distilled"),
    _videomamba("tiny", "t", 76.9, "K400"),
    _videomamba("small", "s", 79.3, "K400"),
    _videomamba("middle", "m", 80.6, "K400", "80.5 in the paper"),
    _deit("tiny", "a1311bcf", 72.2),
    _deit("small", "cd65a155", 79.8),
    _deit("base", "b5f2ef4d", 81.8),
    _rmeeto("vim_tiny", 5, "Vim-Ti_30epoch_75.3", 75.3),
    _rmeeto("vim_small", 11, "Vim-S_15epoch_80.0", 79.9, note="its folder says 80.0"),
    _rmeeto("vim_base", 11, "Vim-B_15epochs_81.3", 81.3, ema=True),
    _rmeeto("videomamba_tiny", 5, "VideoMamba-Ti_30epoch_75.9", 75.9),
    _rmeeto("videomamba_small", 11, "VideoMamba-S_15epochs_80.1", 80.1),
    _rmeeto("videomamba_base", 11, "VideoMamba-B_15epochs_81.9", 81.9),
    _rmeeto("videomamba_tiny_k400_f8", 88, "K400_VideoMamba-Ti_30epochs_76.5", 76.5),
    _rmeeto("videomamba_small_k400_f8", 88, "K400_VideoMamba-S_15epochs_78.5", 78.5),
    _rmeeto("videomamba_middle_k400_f8", 88, "K400_VideoMamba-M_15epochs_78.9", 78.9),
    _tome("small", "S", 79.36),
    _tome("tiny", "T", 71.27),
)


def find(name: str) -> PublicCheckpoint | None:
    """The public checkpoint by name, or None."""
    return next((entry for entry in PUBLIC if entry.name == name), None)


def for_model(model: str, r: int) -> PublicCheckpoint | None:
    """What the zoo has for a model at r: weights re-trained there, else the unmerged model's, else None."""
    own = [entry for entry in PUBLIC if entry.model == model]
    return next((entry for entry in own if entry.r == r), next((entry for entry in own if entry.r == 0), None))
