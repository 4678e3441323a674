"""Print what was once found to be wrong with the printed intervals and verdicts, and what the same trials give now.

    python benchmarks/found_and_now.py

Made runs go through the tool's own analysis, verdicts and sentences, with the makers of the tests at other seeds and more runs.
A checkout is needed, with pytest. Each figure comes with its standard error.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from intervals import DEFAULT, ON_CPU, Heated, Judged, _share, heated_run, holds, judged_runs
from noisy_runs import Noise, Shape

sys.path.extend(map(str, {found.parent for found in (Path(__file__).parents[1] / "tests").rglob("*.py")}))

from test_claims import arms, made
from test_compare import repeated, sides
from test_gate import MARGIN, answers, shares, simulated
from test_noise import calibrated_pairs
from test_tradeoff import samples

from rmeeto_bench.bench.summary.class_changes import shrunk_changes
from rmeeto_bench.bench.summary.tradeoff import Tradeoff
from rmeeto_bench.compare.gate_power import PairNoise, draw, outcomes
from rmeeto_bench.compare.gate_rule import FAILS, PASSES, TOTAL_ALPHA, decide
from rmeeto_bench.compare.stored_runs import Tolerances, compare
from rmeeto_bench.measure.statistics import half_width, paired_delta, run_estimate
from rmeeto_bench.records.comparison import FAIL, PASS
from rmeeto_bench.report.run.claims import where_it_pays

Row = tuple[str, str, str, str]  # what was tried, nominal, found then, now
MOODS = {"mood": 0.2, "process_sd": 0.004}


def _of_valid(runs: list[Judged]) -> str:
    valid = [run.covers for run in runs if run.verdict == "VALID"]
    alone = f"cover {_share(valid)}" if valid else "none"
    return f"VALID {_share([run.verdict == 'VALID' for run in runs])}; of these {alone}"


def of_speeds() -> Iterator[Row]:
    """Intervals and verdicts of speed-ups."""
    one = judged_runs(Noise(process_sd=0.004), Shape(1, 60, 2), 1000, 51)
    yield (
        "`--sustained`, processes differ by 0.4 %",
        "0.95",
        "covers 0.10, VALID",
        f"{_share([r.covers for r in one])}; {_of_valid(one)}",
    )
    for arms_ in (2, 6):
        runs = judged_runs(Noise(process_sd=0.004), Shape(arms=arms_), 2000, 52)
        wide = [run.half_width > DEFAULT.target * (1 + 1e-9) for run in runs if run.verdict == "VALID"]
        width = 100 * float(np.mean([run.half_width for run in runs]))
        own = 100 * float(np.mean([half_width(run.own) for run in runs]))
        now = f"±{width:.2f} % (own ±{own:.2f} %); wider than the 1 % asked for {_share(wide)}; {_of_valid(runs)}"
        yield f"default preset, the same, {arms_} arms", "as asked", "±1.27 %, over ±0.25 % in 0.96 of VALID rows", now
    for constant, then in ((30.0, "0.31"), (90.0, "0.57"), (240.0, "0.00")):
        runs = [heated_run(Heated(constant, pause=math.inf), 5300 + seed) for seed in range(200)]
        yield f"heat of 4 % against 2 %, {constant:.0f} s, temperature seen", "0.95", f"{then}, VALID", _of_valid(runs)
    for blocks, then in ((0, "0.72"), (40, "0.82 (0.70 of VALID)")):
        runs = judged_runs(Noise(**MOODS, mood_blocks=blocks), Shape(arms=2), 2000, 54, ON_CPU)
        yield f"20 % mood, {blocks or 'all'} blocks long, an arm feels 0.9", "0.95", then, _of_valid(runs)
    generator = np.random.default_rng(55)
    found = [run_estimate(list(generator.normal(0, 0.03, (3, 8)))) for _ in range(6000)]
    narrow = sorted(found, key=lambda e: (e.high or 0) - (e.low or 0))[:600]
    yield "narrowest tenth at three sessions", "0.95", "0.60", _share([holds(e, 0.0) for e in narrow])


def of_choices() -> Iterator[Row]:
    """Sentences and estimates that pick."""
    truth = 0.14 + 0.14 * 0.05 / 0.15
    covered = []
    for seed in range(5600, 5800):
        found = Tradeoff(samples((1.0, 0.95, 1.1, 1.5), seed=seed, sessions=6, process=0.004), resamples=200).break_even()
        covered.append(found is not None and (found.low or 0) <= truth <= (found.high or 1))
    one = Tradeoff(samples((1.0, 0.95, 1.1, 1.5), sessions=1)).break_even()
    now = f"one session: {'no interval' if one and one.low is None else 'an interval'}; six: {_share(covered)}"
    yield "break-even", "0.95", "one session: 0.14", now
    generator = np.random.default_rng(57)
    named = [(text := where_it_pays(made(generator))).startswith("merging") or "slower" in text for _ in range(2000)]
    yield "all speed-ups truly 1: a ratio is named", "0.05", "0.69", _share(named)
    yield (
        "1.2 at one ratio, 0.99 at a larger",
        "",
        "two sentences that contradict",
        where_it_pays(arms(1.2, 0.99, half=0.004)[1:]),
    )
    yield "1.001 [0.97, 1.03]", "", "pays at every ratio measured", where_it_pays(arms(1.001, half=0.03)[1:])
    shown, inside = [], []
    for _ in range(60):
        counts = np.array([generator.multinomial(50, [0.06, 0.07, 0.87]) for _ in range(1000)])
        found_ = shrunk_changes(counts[:, 0], counts[:, 1], np.full(1000, 50))
        worst = sorted(found_, key=lambda e: e.value)[:15]
        shown.append(np.mean([e.value for e in worst]))
        inside.append(np.mean([holds(e, -1.0) for e in worst]))
    text = (
        f"{np.mean(shown):+.2f} ± {np.std(shown) / np.sqrt(60):.2f}; {np.mean(inside):.3f} ± {np.std(inside) / np.sqrt(60):.3f}"
    )
    yield "15 classes that lose most, all truly -1.0", "-1.0; 0.95", "-11.3; 0.66", text
    edge = [paired_delta(np.ones(2000, bool), np.arange(2000) >= lost) for lost in generator.binomial(2000, 0.002, 2000)]
    yield "`paired_delta`, 0.2 % change, all losses", "0.95", "0.903", _share([holds(e, -0.2) for e in edge])
    every = paired_delta(np.zeros(3, bool), np.ones(3, bool))
    yield (
        "`paired_delta` where all change",
        "within ±100",
        "+100 [-51, +118]",
        f"{every.value:+.0f} [{every.low:+.0f}, {every.high:+.0f}]",
    )


def of_programs() -> Iterator[Row]:
    """compare, calibrate and the gate."""
    generator = np.random.default_rng(58)
    for sd, then in ((0.004, "0.05 to 0.11"), (0.01, "0.86")):
        each = []
        for sessions in (3, 4, 5, 6, 8, 10):
            pairs = (sides(*(repeated(generator, sessions, sd) for _ in range(2))) for _ in range(600))
            each.append([compare(*pair, Tolerances(speed=0.0)).exit_code == 3 for pair in pairs])
        worst = max(each, key=np.mean)
        yield f"`compare` with itself, 3 to 10 sessions, {100 * sd:g} %: exit 3", "≤ 0.05", then, f"at most {_share(worst)}"
    failed, passed = [], []
    truth = PairNoise(float(np.sqrt(2)) * 0.006, 0.012)
    for seed in range(40):
        noise = calibrated_pairs(generator, 0.006)
        for loss, outcome, into in ((noise.fails, FAILS, failed), (noise.passes, PASSES, passed)):
            if loss is not None:
                drawn = draw(truth, [0, 0, np.log1p(-loss)], 12, 500, 7000 + seed)
                into.append(float(np.mean(outcomes(drawn, 6, noise.margin) == outcome)))
    texts = [f"{np.mean(x):.3f} ± {np.std(x) / np.sqrt(len(x)):.3f}" for x in (failed, passed)]
    yield (
        "`calibrate`: the loss it names is FAILed, PASSed",
        "0.95, 0.95",
        "FAIL 0.06, PASS 0.93",
        f"FAIL {texts[0]}, PASS {texts[1]}",
    )

    def wrong(outcome: str, loss: float) -> str:
        cases = [
            simulated(59, (0.0,) * (n - 1) + (-loss,), sd, tails=t)
            for n in (1, 3)
            for sd in (0.002, 0.004, 0.01, 0.04)
            for t in (False, True)
        ]
        most = max(shares(case)[outcome] for case in cases)
        return f"at most {most:.3f} ± {math.sqrt(most * (1 - most) / len(cases[0])):.3f}"

    yield "gate: wrong FAIL at the margin, both looks", "0.05", "0.056 to 0.087", wrong(FAIL, MARGIN)
    yield "gate: wrong PASS at two margins", "0.05", "up to 0.089", wrong(PASS, 2 * MARGIN)
    power = shares(simulated(60, (0.0, 0.0, -2 * MARGIN), 0.004))[FAIL]
    yield (
        "gate: FAIL at two margins, 0.4 %",
        "≥ 0.9",
        "-1 %: 0.59",
        f"{power:.3f} ± {math.sqrt(power * (1 - power) / 4000):.3f}",
    )
    rose = shares(simulated(61, (0.015, 0.0, 0.0), 0.004))[FAIL]
    yield "gate: r = 0 faster by 1.5 %: FAIL", "0", "0.82 to 1.00", f"{rose:.3f} ± {math.sqrt(max(rose, 1e-4) / 4000):.3f}"
    for images in (2000, 21_410):
        drawn_ = [answers(images, *generator.binomial(images, 0.005, 2)) for _ in range(300)]
        passes = [int(decide([one], [0.2], [-1], TOTAL_ALPHA)[0]) == PASSES for one in drawn_]
        now = "INCONCLUSIVE 0.82" if images == 2000 else "—"
        yield f"gate: {images:,} images, 1 % of answers changed, no loss: PASS", "PASS", now, _share(passes)
    same = int(decide([answers(100, 0, 0)], [0.2], [-1], TOTAL_ALPHA)[0]) == PASSES
    yield "gate: identical predictions on 100 images", "PASS", "never PASS", "PASS" if same else "not PASS"


if __name__ == "__main__":
    print("| tried | nominal | found then | now |\n| --- | --- | --- | --- |")
    for rows in (of_speeds, of_choices, of_programs):
        for row in rows():
            print(f"| {' | '.join(row)} |", flush=True)
