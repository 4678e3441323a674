"""Run ablations: every variant sees the same images in one pass, and differences are paired by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rmeeto_bench.ablate.studies import Study, Variant
from rmeeto_bench.checkpoints.reader import load_state
from rmeeto_bench.data.image_set import Batch, ImageSet
from rmeeto_bench.errors import UsageError
from rmeeto_bench.measure.statistics import paired_delta, t_interval, wilson
from rmeeto_bench.models.base import ReducedModel
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.records.run import Estimate
from rmeeto_bench.reduction.schedule import reduction_ratio

MARGIN = 0.5  # points: what the paper's readers would call the same
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Settings:
    """What all variants share."""

    model: str  # name of the model
    checkpoint: Path  # file of the weights
    backend: str = "auto"  # name of the kernels
    batch_size: int = 250  # images
    seeds: int = 3  # runs of a variant that draws at random


@dataclass(frozen=True)
class Row:
    """One variant's outcome."""

    study: str  # name of the study
    source: str  # table of the paper and its regime
    label: str  # name of the variant
    versus: str  # label of the variant it is judged against; empty: none
    reduction_ratio: float  # 1 - mean tokens per block / initial tokens
    top1: Estimate  # percent
    spread: float | None  # standard deviation over seeds, in points; None for one run
    seeds: int  # runs behind the row
    delta: Estimate | None  # points over `versus`, paired by image
    finding: str  # what the paper found: worse, same, not better, or empty
    verdict: str  # on the finding: holds, does not hold, undecided, or empty
    images: int  # classified in every run


class Variation:
    """A variant's model on the shared weights, and which images it got right: [seeds, images]."""

    def __init__(self, variant: Variant, settings: Settings) -> None:
        self.variant = variant
        chosen = {"pruning": variant.pruning} if variant.pruning else {"reduction": variant.reduction}
        self.model: ReducedModel = create_model(settings.model, backend=settings.backend, **chosen)
        load_state(self.model, settings.checkpoint)
        self.seeds = settings.seeds if variant.stochastic else 1
        self.hits: list[list[Hits]] = [[] for _ in range(self.seeds)]

    @torch.inference_mode()
    def see(self, batch: Batch) -> list[Hits]:
        """What it gets right of a batch, for each seed. The index of its first image enters the draws."""
        found: list[Hits] = []
        for seed in range(self.seeds):
            if self.variant.stochastic:
                drawn = replace(self.variant.reduction.ablation, seed=seed * 1_000_000_007 + batch.start)
                self.model.set_reduction(replace(self.variant.reduction, ablation=drawn))
            found.append((self.model(batch.images).argmax(-1) == batch.labels).numpy())
        return found

    def keep(self, found: list[Hits]) -> None:
        """Add the hits of a batch that every variant has seen."""
        for hits, new in zip(self.hits, found, strict=True):
            hits.append(new)

    def right(self) -> Hits:
        """Which images were right so far, [seeds, images]."""
        return np.stack([np.concatenate(parts) for parts in self.hits])


def _arms(chosen: tuple[Study, ...], settings: Settings) -> dict[object, Variation]:
    """One arm for each distinct configuration; variants that the model's family does not have are left out."""
    arms: dict[object, Variation] = {}
    for variant in (variant for study in chosen for variant in study.variants):
        key = (variant.reduction, variant.pruning)
        if key not in arms:
            try:
                arms[key] = Variation(variant, settings)
            except UsageError:
                continue
    return arms


def run_studies(
    chosen: tuple[Study, ...],
    settings: Settings,
    data: ImageSet,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[Row]:
    """Evaluate all variants on all images; stopping early drops the current batch and keeps those seen by every variant.

    Raises `UsageError` if no variant fits the model.
    """
    arms = _arms(chosen, settings)
    if not arms:
        raise UsageError(f"{settings.model} has none of these ablations")
    done = 0
    try:
        for batch in data.batches(settings.batch_size):
            found = [arm.see(batch) for arm in arms.values() if not should_stop()]
            if len(found) < len(arms):
                break
            for arm, hits in zip(arms.values(), found, strict=True):
                arm.keep(hits)
            done += len(batch.labels)
            on_progress(done, len(data))
    except KeyboardInterrupt:
        if not should_stop():
            raise
    return [row for study in chosen for row in _rows(study, arms)] if done else []


def _rows(study: Study, arms: dict[object, Variation]) -> list[Row]:
    there = {v.label: arms[v.reduction, v.pruning] for v in study.variants if (v.reduction, v.pruning) in arms}
    rows = []
    for variant in study.variants:
        if variant.label not in there:
            continue
        arm, versus = there[variant.label], variant.versus or study.variants[0].label
        right = arm.right()
        reference = there.get(versus)
        delta = None if reference is None or reference is arm else _delta(reference.right(), right)
        per_seed = 100 * right.mean(1)
        rows.append(
            Row(
                study=study.name,
                source=study.source,
                label=variant.label,
                versus="" if delta is None else versus,
                reduction_ratio=reduction_ratio(arm.model.token_counts(), arm.model.config.num_tokens),
                top1=_top1(right),
                spread=float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
                seeds=len(per_seed),
                delta=delta,
                finding=variant.finding,
                verdict=_verdict(variant.finding, delta),
                images=right.shape[1],
            )
        )
    return rows


def _top1(right: Hits) -> Estimate:
    if len(right) == 1:
        return wilson(int(right.sum()), right.shape[1])
    return t_interval(100.0 * right.mean(0))


def _delta(reference: Hits, right: Hits) -> Estimate:
    """Points over the reference; several seeds of either are averaged image by image first."""
    if len(reference) == len(right) == 1:
        return paired_delta(reference[0], right[0])
    return t_interval(100.0 * (right.mean(0) - reference.mean(0)))


def _verdict(finding: str, delta: Estimate | None) -> str:
    """Whether the interval of the difference agrees with the paper: holds, does not hold, undecided, or empty."""
    if not finding or delta is None or delta.low is None or delta.high is None:
        return ""
    low, high = delta.low, delta.high
    if finding == "worse":
        return "holds" if high < 0 else "does not hold" if low > 0 or abs(low) < MARGIN else "undecided"
    if finding == "same":
        return "holds" if low > -MARGIN and high < MARGIN else "does not hold" if low > 0 or high < 0 else "undecided"
    return "does not hold" if low > 0 else "holds" if high < MARGIN else "undecided"
