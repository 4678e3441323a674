"""How weights were trained, and what says so: the only place that decides, `unknown` included."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rmeeto_bench.checkpoints.catalogue import PUBLIC, PublicCheckpoint
from rmeeto_bench.checkpoints.reader import Provenance
from rmeeto_bench.checkpoints.trained import in_words
from rmeeto_bench.reduction.config import ReductionConfig

CATALOGUE, METADATA, ARGUMENTS, NAME, UNKNOWN = "catalogue", "metadata", "arguments", "file name", "unknown"
UNKNOWN_ORIGIN = "unknown origin"
FEWEST_DIGITS = 8  # of a digest that stands for a file
GENERIC = {"model_best.pth", "checkpoint.pth", "checkpoint-best.pth", "checkpoint-latest.pth"}  # names of any training


@dataclass(frozen=True)
class Origin:
    """The training behind a file."""

    # Tokens removed per merge in the training (0: no merging), or None if nobody knows.
    r: int | None = None
    # The whole reduction, or None if nobody knows.
    reduction: ReductionConfig | None = None
    # What says so: the catalogue of public files, metadata, arguments or the name of the file; else unknown.
    known_by: str = UNKNOWN

    def label(self, r: int) -> str:
        """What a table says of weights from here at r."""
        if self.r is None:
            return UNKNOWN_ORIGIN
        if r == self.r:
            return "baseline" if r == 0 else "retrained"
        return f"trained at r={self.r}" if self.r else "training-free"

    def obeyed(self, asked: ReductionConfig) -> ReductionConfig:
        """The reduction to evaluate with: the amount that is asked for, the way of the training."""
        if asked.r == 0 or self.reduction is None or self.reduction.r == 0:
            return asked
        if asked.r == self.reduction.r:
            return self.reduction
        vit = replace(self.reduction.vit, per_block=())  # counts of another r
        return replace(self.reduction, r=asked.r, vit=vit)

    def differences(self, name: str, evaluated: Sequence[ReductionConfig]) -> list[str]:
        """One sentence if weights that were trained with merging are evaluated with another; none else. The table calls
        weights that were trained without merging training-free, which says it all."""
        others = [found for found in evaluated if found != self.reduction and found.r != self.r]
        if not self.r or not others:
            return []
        trained = f"r = {self.r}" if self.reduction is None else in_words(self.reduction)
        same_way = self.reduction is None or all(found in (ReductionConfig(), self.obeyed(found)) for found in others)
        amounts = "r = " + ", ".join(str(found.r) for found in others)
        return [f"{name} was trained with {trained}, evaluated with {amounts if same_way else in_words(others[0])}"]


def origin_of(provenance: Provenance, published: PublicCheckpoint | None = None) -> Origin:
    """Where weights come from. In this order: the catalogue (the file was fetched by its name there, or has a digest that
    is known), what the file says of itself, r in its name; else nobody knows."""
    entry = published or _by_digest(provenance.sha256)
    told = provenance.reduction
    if entry is not None:
        reduction = told if told is not None and told.r == entry.r else entry.reduction
        return Origin(entry.r, reduction, CATALOGUE)
    if told is not None or provenance.trained_r is not None:
        source = METADATA if provenance.metadata else ARGUMENTS
        return Origin(provenance.trained_r if told is None else told.r, told, source)
    return _by_name(provenance.path)


def _by_digest(digest: str) -> PublicCheckpoint | None:
    known = (entry for entry in PUBLIC if entry.sha256 is not None and len(entry.sha256) >= FEWEST_DIGITS)
    return next((entry for entry in known if digest.startswith(entry.sha256 or "-")), None)


def _by_name(path: Path) -> Origin:
    """`vim_nano_r11.pth`, `r11-prune.pth`, or the name of a public file."""
    found = re.fullmatch(r"(?:.*[_.-])?r(\d{1,6})((?:-prune|-unordered)*)", path.stem)
    if found is not None:
        words = found[2].split("-")
        reduction = ReductionConfig(r=int(found[1]), prune="prune" in words, ordered="unordered" not in words)
        return Origin(reduction.r, reduction if reduction.r else ReductionConfig(), NAME)
    if path.name not in GENERIC:
        public = [entry for entry in PUBLIC if any(Path(name).name == path.name for name in entry.filenames)]
        if len(public) == 1:
            return Origin(public[0].r, public[0].reduction, NAME)
    return Origin()
