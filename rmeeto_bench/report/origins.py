"""Notes below a table on its weights: how their training is known, and which settings are not the method's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rmeeto_bench.records.run import Arm


def _at(arms: Sequence[Arm]) -> str:
    if any(arm.baseline for arm in arms):
        return ", ".join(arm.arm for arm in arms)
    return "r = " + ", ".join(str(arm.r) for arm in arms)


def origin_notes(arms: Sequence[Arm]) -> Iterator[str]:
    """One sentence for each thing that the label in the table does not say."""
    unknown = [arm for arm in arms if arm.known_by == "unknown"]
    if unknown:
        yield f"weights: unknown origin at {_at(unknown)}; nothing says with which r they were trained: name the files MODEL_rN"
    for source, words in (("file name", "the names of their files"), ("catalogue", "the catalogue of public checkpoints")):
        found = [arm for arm in arms if arm.known_by == source]
        if found:
            yield f"weights: known by {words} at {_at(found)}"
    averaged = [arm for arm in arms if arm.averaged]
    if averaged:
        yield f"weights: averaged (EMA) at {_at(averaged)}"
    ways = list(dict.fromkeys(arm.reduction.partition(", ")[2] for arm in arms))
    for way in filter(None, ways):
        own = [arm for arm in arms if arm.reduction.partition(", ")[2] == way]
        yield f"merging: {way} at {_at(own)}, as in the training"
