"""Which checkpoint an arm gets, and what that makes it: re-trained, training-free, baseline or random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.checkpoints.catalogue import BUNDLED, PUBLIC, bundled_checkpoint, find, for_model
from rmeeto_bench.checkpoints.hub import fetch, resolve
from rmeeto_bench.errors import CheckpointError

ZOO = "zoo"  # --checkpoints zoo: the public file of each model and r
ENDINGS = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Weights:
    """The file for an arm (None: random weights), whether it is the baseline's, whether to take its EMA, and the r its
    publisher says it was trained at."""

    path: Path | None
    is_baseline: bool = False
    ema: bool = False
    published_r: int | None = None

    def label(self, r: int, trained_r: int | None) -> str:
        """What the table says about an arm at r with weights that the file says were trained at `trained_r`."""
        if self.path is None:
            return "random"
        trained = 0 if self.is_baseline else self.published_r or trained_r
        if r == trained:
            return "baseline" if r == 0 else "retrained"
        if not trained:
            return "baseline" if r == 0 else "training-free"
        return f"trained at r={trained}"


def bundled_models() -> list[str]:
    """`name r=...` of everything that ships."""
    files = sorted(BUNDLED.glob("*_r*.safetensors"), key=lambda path: (path.stem.rsplit("_r", 1)[0], len(path.stem), path.stem))
    names: dict[str, list[str]] = {}
    for path in files:
        name, r = path.stem.rsplit("_r", 1)
        names.setdefault(name, []).append(r)
    return [f"{name} at r = {', '.join(rs)}" for name, rs in names.items()]


def _in_folder(folder: Path, model: str, r: int) -> Path | None:
    for stem in (f"{model}_r{r}", f"r{r}"):
        for ending in ENDINGS:
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    return None


def choose(cell: Cell, checkpoints: str | None) -> Weights:
    """The weights for a cell. In a folder: the file of its r, else the baseline's.

    Raises `CheckpointError` if a folder has neither, or a name leads nowhere.
    """
    if checkpoints is None or checkpoints == "bundled":
        own, baseline = bundled_checkpoint(cell.model, cell.r), bundled_checkpoint(cell.model, 0)
        if checkpoints == "bundled" and baseline is None:
            raise CheckpointError(f"no weights for {cell.model} ship with rmeeto-bench; give --checkpoints a folder or a file")
    elif checkpoints == "none":
        return Weights(None)
    elif checkpoints == ZOO:
        entry = for_model(cell.model, cell.r)
        if entry is None:
            known = ", ".join(dict.fromkeys(entry.model for entry in PUBLIC))
            raise CheckpointError(f"there is no public checkpoint of {cell.model}, only of {known}; give --checkpoints a file")
        return Weights(fetch(entry), entry.r == 0, entry.ema, entry.r)
    elif Path(checkpoints).is_dir():
        folder = Path(checkpoints)
        own, baseline = _in_folder(folder, cell.model, cell.r), _in_folder(folder, cell.model, 0)
        if own is None and baseline is None:
            expected = f"{cell.model}_r{cell.r}.safetensors"
            raise CheckpointError(f"{folder} has no {expected} (or .pth), nor one for r0 to fall back on; name the files so")
    else:
        public = find(checkpoints)
        return Weights(resolve(checkpoints), False, public is not None and public.ema)
    if own is not None:
        return Weights(own, cell.r == 0)
    return Weights(baseline, baseline is not None)
