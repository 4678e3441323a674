"""Do the labels belong to the images? A confident model at chance-level accuracy suggests that they do not."""

from __future__ import annotations

import numpy as np

from rmeeto_bench.bench.store.predictions import Results

CHECKED_AFTER = 500  # images; fewer say little about a thousand classes
FEWEST = 200
SURE = 0.3  # mean probability of the first class from which on being right at chance level is no accident
MARGIN = 0.02


def suspicion(results: Results, arm: str, num_classes: int) -> str | None:
    """A hint if this arm's accuracy is near chance although its predictions are confident, else None.

    If images of one predicted class mostly share one label, the classes are numbered otherwise (a permutation).
    """
    count = len(results.labels)
    if count < FEWEST or num_classes < 2:
        return None
    chance = 1 / num_classes
    accuracy = float(results.correct(arm).mean())
    sure = float(results.confidence[arm].astype(np.float64).mean())
    near_chance = accuracy <= chance + 3 * float(np.sqrt(chance * (1 - chance) / count)) + MARGIN
    if not near_chance or sure < max(SURE, 2 * chance):
        return None
    says = f"{arm} is right on {100 * accuracy:.1f} % of {count} images, the chance level, but {100 * sure:.0f} % confident: "
    labels = np.unique(results.labels)
    if len(labels) == 1:
        return says + f"all images have the label {labels[0]}; the class folders or the file of labels were not used"
    predicted = results.best[arm][:, 0]
    agreeing = sum(int(np.bincount(results.labels[predicted == one]).max()) for one in np.unique(predicted))
    if agreeing / count >= sure / 2 and count >= 4 * len(labels):
        return says + "its classes and the labels agree up to their numbering; check the order of the class map"
    return says + "labels and images do not belong together, or the model was trained on other classes or other preprocessing"
