"""What the predictions in a store say about a model's arms. Everything is derived anew; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rmeeto_bench.bench.session.label_check import suspicion
from rmeeto_bench.bench.store.predictions import Evaluated, Predictions, Results
from rmeeto_bench.bench.store.store import Session, Store
from rmeeto_bench.errors import printable
from rmeeto_bench.measure.statistics import paired_delta, wilson
from rmeeto_bench.records.run import Arm

BINS = 15
MOST_PROBLEMS = 1000  # of the data, in a manifest; the store has all


@dataclass(frozen=True)
class Accuracy:
    """What the accuracy pass of a model left, as far as it is."""

    images: Mapping[str, Evaluated]  # what it is of, by arm
    results: Results  # of the images that all evaluated arms have seen
    session: Session  # that says most of the pass: the last one with probes, or the last
    facts: Mapping[str, dict[str, Any]]  # of its arms
    # Of the images, by fingerprint: place in the set, path, reason, whether left out.
    problems: Mapping[str, list[tuple[int, str, str, bool]]]

    def data(self, arms: Sequence[str]) -> dict[str, Any]:
        """What the manifest keeps of the images of a model, by its evaluated arms; nothing where there are none."""
        first = next((arm for arm in arms if arm in self.images), None)
        if first is None:
            return {}
        images, found_problems = self.images[first], self.problems[self.images[first].fingerprint]
        known: dict[str, Any] = {"fingerprint": images.fingerprint, "of": images.images, "classes": images.classes}
        unreadable = len({place for place, _, _, left_out in found_problems if left_out and place >= 0})
        hint = suspicion(self.results, first, images.classes)
        problems = [
            {"path": printable(path), "reason": printable(reason), "skipped": left_out}
            for _, path, reason, left_out in found_problems[:MOST_PROBLEMS]
        ]
        found = {"unreadable": unreadable, "hint": hint, "problems": problems}
        return {"name": images.name, **known} | {name: value for name, value in found.items() if value}


def accuracy_of(store: Store, device: str, group: str) -> Accuracy | None:
    """What was evaluated of a group, None for nothing yet. `device`: whose pass it is."""
    passes = [session for session in store.sessions(device, group, "accuracy") if store.facts(device, session.session)]
    if not passes:
        return None
    last = next((session for session in reversed(passes) if store.probes(device, session.session)), passes[-1])
    kept, facts = Predictions(store, device), store.facts(device, last.session)
    arms = [name for name in facts if facts[name]["failure"] is None and kept.done([name])]
    results, images = kept.results(arms), {arm: found for arm in arms if (found := kept.evaluated(arm)) is not None}
    if not images or not len(results.labels):
        return None
    problems = {one.fingerprint: kept.problems(one.fingerprint) for one in images.values()}
    return Accuracy(images, results, last, facts, problems)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error in percentage points: the mean gap between how sure and how right, over bins of equal
    width of the first class's probability, weighted by their images (Guo et al. 2017). 0 for no images."""
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    if len(sure) == 0:
        return 0.0
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - sure, minlength=bins)
    return float(100 * np.abs(gaps).sum() / len(sure))


def with_accuracy(arm: Arm, results: Results, baseline: str) -> Arm:
    """The row with top-1, top-5, calibration, and the difference to the baseline by image."""
    best = results.best.get(arm.arm)
    if best is None:
        return arm
    correct = results.correct(arm.arm)
    row = replace(
        arm,
        top1=wilson(int(correct.sum()), len(correct)),
        top5=wilson(int((best == results.labels[:, None]).any(1).sum()), len(correct)),
        calibration_error=calibration_error(results.confidence[arm.arm], correct),
        n_images=len(correct),
    )
    if arm.arm == baseline or baseline not in results.best:
        return row
    same = float((best[:, 0] == results.best[baseline][:, 0]).mean())
    return replace(row, delta_top1=paired_delta(results.correct(baseline), correct), agreement=100 * same)
