"""Reading `--ratios` and `--r` as people type them, the literal `...` of the paper's figure included."""

from __future__ import annotations

from rmeeto_bench.errors import UsageError
from rmeeto_bench.reduction.schedule import PAPER_RATIOS

ELLIPSIS = ("...", "…")
UNSHOWN = 0.36  # in Table 10 but in no throughput row (Table 12), so `...` passes over it

MOST = 1000  # ratios of one list; each is a model to build and time
LARGEST_R = 100_000


def parse_ratios(text: str) -> tuple[float, ...]:
    """`0,0.14,...,0.54` -> (0.0, 0.14, 0.28, 0.31, 0.42, 0.54): ascending as typed, without repeats.

    `...` between two of the paper's ratios stands for the ratios of the paper's Table 12 between them, else for the
    arithmetic progression of the two numbers before it. Raises `UsageError` for a malformed list or a ratio outside
    [0, 1).
    """
    words = [word.strip() for word in text.split(",")]
    ratios: list[float] = []
    for i, word in enumerate(words):
        if word not in ELLIPSIS:
            ratios.append(_ratio(word, text))
        elif i == len(words) - 1 or not ratios:
            raise UsageError(f"'...' in --ratios {text:.60} needs a number on both sides, as in 0,0.14,...,0.54")
        else:
            ratios.extend(_between(ratios, _ratio(words[i + 1], text), text))
    return tuple(dict.fromkeys(ratios))


def parse_rs(text: str) -> tuple[int, ...]:
    """`0,5,11` -> (0, 5, 11). Raises `UsageError`."""
    try:
        rs = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(f"--r takes whole numbers with commas between, as in 0,5,11, not {text!r:.60}") from None
    if any(r < 0 for r in rs):
        raise UsageError(f"--r {text:.60}: r is the number of tokens removed per merge, 0 or more")
    if any(r > LARGEST_R for r in rs):
        raise UsageError(f"--r {text:.60}: no model has that many tokens; r is at most {LARGEST_R}")
    return rs


def _ratio(word: str, text: str) -> float:
    try:
        ratio = float(word)
    except ValueError:
        raise UsageError(f"--ratios {text:.60}: {word!r:.60} is no number; write for example 0,0.14,...,0.54") from None
    if not 0 <= ratio < 1:
        raise UsageError(f"--ratios {text:.60}: a reduction ratio lies in [0, 1), {word:.60} does not")
    return ratio


def _between(before: list[float], end: float, text: str) -> list[float]:
    """The ratios that `...` stands for, both ends excluded."""
    start = before[-1]
    if end <= start:
        raise UsageError(f"--ratios {text:.60}: '...' needs a larger number after it than before it")
    if start in PAPER_RATIOS and end in PAPER_RATIOS:
        return [ratio for ratio in PAPER_RATIOS if start < ratio < end and ratio != UNSHOWN]
    if len(before) < 2 or before[-1] <= before[-2]:
        raise UsageError(f"--ratios {text:.60}: '...' needs two ascending numbers before it to know the step")
    step = before[-1] - before[-2]
    if (end - start) / step > MOST:
        raise UsageError(f"--ratios {text:.60}: '...' would stand for more than {MOST} ratios; choose a larger step")
    count = round((end - start) / step)
    if abs(start + count * step - end) > 1e-9:
        raise UsageError(f"--ratios {text:.60}: steps of {step:.4g} from {start:g} do not meet {end:g}")
    return [round(start + i * step, 10) for i in range(1, count)]
