"""Choose the file of an arm's weights by names alone; nothing is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.checkpoints.catalogue import BUNDLED, PUBLIC, PublicCheckpoint, bundled_checkpoint, find, for_model
from rmeeto_bench.checkpoints.hub import fetch, resolve
from rmeeto_bench.errors import CheckpointError
from rmeeto_bench.models.sizes import uncompiled, without_size

ZOO = "zoo"  # --checkpoints zoo: the public file of each model and r
ENDINGS = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Chosen:
    """The file for an arm."""

    # None: random weights.
    path: Path | None
    # The catalogue's entry, where the file was asked for by its name there.
    published: PublicCheckpoint | None = None
    # Files of the same r in the folder that are not used.
    passed_over: tuple[str, ...] = ()

    @property
    def ema(self) -> bool:
        """Whether the published accuracy is that of the averaged weights in the file."""
        return self.published is not None and self.published.ema


def bundled_models() -> list[str]:
    """`name r=...` of everything that ships."""
    files = sorted(BUNDLED.glob("*_r*.safetensors"), key=lambda path: (path.stem.rsplit("_r", 1)[0], len(path.stem), path.stem))
    names: dict[str, list[str]] = {}
    for path in files:
        name, r = path.stem.rsplit("_r", 1)
        names.setdefault(name, []).append(r)
    return [f"{name} at r = {', '.join(rs)}" for name, rs in names.items()]


def in_folder(folder: Path, model: str, r: int) -> Chosen | None:
    """The file of an r: by its name alone, else the only one that also names a way of merging (`vim_nano_r11-prune`).

    A dead link counts as a file, so that it is named and not passed over.
    """
    there = sorted(folder.iterdir())
    exact = [path for stem in (f"{model}_r{r}", f"r{r}") for end in ENDINGS for path in there if path.name == stem + end]
    if exact:
        return Chosen(exact[0], passed_over=tuple(path.name for path in exact[1:]))
    found = [path for path in there if path.name.startswith(f"{model}_r{r}-") and path.suffix in ENDINGS]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder} has several files of {model} at r = {r} ({names}); give one of them")
    return Chosen(found[0]) if found else None


def choose(cell: Cell, checkpoints: str | None) -> Chosen:
    """The file for a cell. In a folder: the file of its r, else the baseline's.

    Raises `CheckpointError` if a folder has neither, or a name leads nowhere.
    """
    name, _ = without_size(cell.model)  # weights of another image size than the model's own are its own, resized
    if checkpoints is None or checkpoints == "bundled":
        baseline = bundled_checkpoint(name, 0)
        if checkpoints == "bundled" and baseline is None:
            raise CheckpointError(f"no weights for {cell.model} ship with rmeeto-bench; give --checkpoints a folder or a file")
        return Chosen(bundled_checkpoint(name, cell.r) or baseline)
    if checkpoints == "none":
        return Chosen(None)
    if checkpoints == ZOO:
        entry = for_model(name, cell.r)
        if entry is None:
            known = ", ".join(dict.fromkeys(entry.model for entry in PUBLIC))
            raise CheckpointError(f"there is no public checkpoint of {cell.model}, only of {known}; give --checkpoints a file")
        return Chosen(fetch(entry), entry)
    if Path(checkpoints).is_dir():
        folder = Path(checkpoints)
        places = [(own, r) for own in dict.fromkeys((uncompiled(cell.model), name)) for r in (cell.r, 0)]
        found = next((file for own, r in places if (file := in_folder(folder, own, r))), None)
        if found is None:
            expected = f"{uncompiled(cell.model)}_r{cell.r}.safetensors"
            raise CheckpointError(f"{folder} has no {expected} (or .pth), nor one for r0 to fall back on; name the files so")
        return found
    return Chosen(resolve(checkpoints), None if Path(checkpoints).exists() else find(checkpoints))
