"""The regression gate: its operating characteristics on the simulated device, its order of processes, what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_runs import arms, cpu_run, record

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.compare.gate import Rules, order, run_gate
from rmeeto_bench.compare.gate_power import outcomes
from rmeeto_bench.compare.gate_rule import (
    ALPHAS,
    FAILS,
    OUTCOMES,
    PASSES,
    TOTAL_ALPHA,
    Margins,
    collect,
    decide,
    judge,
    overall,
    process_changes,
)
from rmeeto_bench.compare.readings import round_changes
from rmeeto_bench.compare.student import mean_of, welch
from rmeeto_bench.compare.top1 import PairedAnswers, images_needed
from rmeeto_bench.errors import MeasurementError
from rmeeto_bench.records.comparison import FAIL, INCONCLUSIVE, MEMORY, PASS, RATE, SPEEDUP, TOP1
from rmeeto_bench.records.run import Block, DeviceRecord, RunRecord, save

# The product's own rule on many gates at once, with noise of our own: per cent, three arms of which each process shifts each.

TRIALS, PAIRS, MARGIN = 4000, 6, 0.0075


def simulated(seed: int, changes: tuple[float, ...], sd: float, shared: float = 0.0, tails: bool = False) -> np.ndarray:
    """Changes within twice six pairs of processes [trial, rates and speed-ups, pair]; `sd`: of one process of one arm."""
    rng = np.random.default_rng([seed, 19])
    shape = (TRIALS, len(changes), 2 * PAIRS)
    own = rng.standard_t(4, shape) / np.sqrt(2) if tails else rng.normal(size=shape)
    within = rng.normal(0, 0.001, shape)  # what eight rounds leave of the noise of blocks
    common = shared * rng.normal(size=(TRIALS, 1, 2 * PAIRS))
    rates = np.array(changes)[:, None] + np.sqrt(2) * (sd * own + within + common)
    return np.concatenate([rates, rates[:, 1:] - rates[:, :1]], 1)


def shares(found: np.ndarray, margin: float = MARGIN) -> dict[str, float]:
    judged = outcomes(found, PAIRS, margin)
    return {name: float(np.mean(judged == code)) for code, name in OUTCOMES.items()}


def at_most(share: float, nominal: float) -> bool:
    return share <= nominal + 3 * np.sqrt(nominal * (1 - nominal) / TRIALS)


@pytest.mark.parametrize("sd", [0.002, 0.004, 0.01, 0.04])
@pytest.mark.parametrize("tails", [False, True])
def test_over_both_looks_the_gate_is_wrong_in_at_most_one_of_twenty(sd: float, tails: bool) -> None:
    for changes in ((-MARGIN,), (-MARGIN,) * 3, (0.0, 0.0, -MARGIN)):
        assert at_most(shares(simulated(1, changes, sd, tails=tails))[FAIL], 0.05), changes
    for changes in ((-2 * MARGIN,), (0.0, 0.0, -2 * MARGIN)):
        assert at_most(shares(simulated(2, changes, sd, tails=tails))[PASS], 0.05), changes


def test_two_margins_are_caught_with_the_default_and_no_change_passes() -> None:
    """0.4 % between processes, the default arms, one of which loses."""
    assert shares(simulated(3, (0.0, 0.0, -2 * MARGIN), 0.004))[FAIL] >= 0.9
    assert shares(simulated(4, (0.0,) * 3, 0.004))[PASS] >= 0.99
    assert shares(simulated(5, (0.0,) * 3, 0.004))[FAIL] <= 0.005


def test_what_a_pair_shares_cancels() -> None:
    """A machine whose speed differs by 3 % from pair to pair: the changes within pairs do not see it."""
    rng = np.random.default_rng(20)
    base = [{("d", "a", RATE): float(np.exp(x))} for x in rng.normal(0, 0.03, 12)]
    head = [{key: value * float(np.exp(rng.normal(-0.015, 0.004))) for key, value in one.items()} for one in base]
    pairs = [process_changes(one, other) for one, other in zip(base, head, strict=True)]
    assert overall(judge(collect(base, head, Margins(), ALPHAS[1], pairs), ALPHAS[1])) == FAIL
    assert overall(judge(collect(base, head, Margins(), ALPHAS[1]), ALPHAS[1])) == INCONCLUSIVE, "two means do not tell"


def test_a_baseline_that_got_faster_is_no_regression() -> None:
    for sd, shared in ((0.004, 0.0), (0.001, 0.0), (0.002, 0.02)):
        found = shares(simulated(6, (0.015, 0.0, 0.0), sd, shared))
        assert at_most(found[FAIL], 0.05), (sd, shared)
    assert shares(simulated(7, (0.015, 0.0, 0.0), 0.004))[PASS] >= 0.95


def test_the_page_about_the_method_prints_what_the_rule_does() -> None:
    """Its table, from seeds of its own, within four standard errors of ours."""
    page = Path(__file__).parents[2] / "docs" / "method.md"
    if not page.is_file():
        pytest.skip("docs/ is not part of this distribution")
    rows = re.findall(r"^\| (none|-[\d.]+ %) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page.read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 5
    for name, *printed in rows:
        loss = 0.0 if name == "none" else float(name.split()[0]) / 100
        found = shares(simulated(8, (0.0, 0.0, float(np.log1p(loss))), 0.004))
        for outcome, share in zip((PASS, INCONCLUSIVE, FAIL), printed, strict=True):
            error = np.sqrt(max(0.001, float(share) * (1 - float(share))) / TRIALS)
            assert found[outcome] == pytest.approx(float(share), abs=6 * error + 0.0005), (name, outcome)


def test_what_slows_both_sides_alike_is_not_seen_between_rounds_side_by_side(tmp_path: Path) -> None:
    def side(name: str, factor: float, rounds: int = 6) -> tuple[Path, RunRecord]:
        run, folder = cpu_run(), tmp_path / name
        save(run, folder)
        with Store.create(folder) as store:
            session = store.begin_session("cpu", "vim_nano", "timing", {})
            for number in range(rounds):
                mood = 1.5 if number < 3 else 1.0
                for place, arm in enumerate(run.arms):
                    seconds = mood * factor * 0.1 * (1 + 0.1 * place) * (1.02 if arm.r and factor > 1 else 1.0)
                    store.add_block(Block("cpu", session, number, place, arm.arm, 1, 32, seconds, seconds))
            store.end_session("cpu", session, "done", {})
        return folder, run

    base = side("base", 1.0)
    changes = round_changes(base, side("head", 1.05))
    assert changes["cpu", "vim_nano/r0", RATE] == pytest.approx(-np.log(1.05))
    merged = next(arm.arm for arm in base[1].arms if arm.r)
    assert changes["cpu", merged, RATE] == pytest.approx(-np.log(1.05 * 1.02))
    assert changes["cpu", merged, SPEEDUP] == pytest.approx(-np.log(1.02))
    assert ("cpu", "vim_nano/r0", SPEEDUP) not in changes
    assert round_changes(base, side("short", 1.0, rounds=2)) == {}


def test_a_round_that_one_side_dropped_takes_only_its_partner_with_it(tmp_path: Path) -> None:
    """The machine slows down by 1 % a round; the base drops its third round and measures one more at the end."""

    def side(name: str, numbers: range, dropped: int | None = None) -> tuple[Path, RunRecord]:
        run, folder = cpu_run(), tmp_path / name
        save(run, folder)
        with Store.create(folder) as store:
            session = store.begin_session("cpu", "vim_nano", "timing", {})
            for number in numbers:
                for place, arm in enumerate(run.arms):
                    reason = "THROTTLED: hot" if number == dropped and place == 0 else None
                    seconds = 0.1 * 1.01**number
                    store.add_block(Block("cpu", session, number, place, arm.arm, 1, 32, seconds, seconds, reason))
            store.end_session("cpu", session, "done", {})
        return folder, run

    changes = round_changes(side("base", range(9), dropped=2), side("head", range(8)))
    assert changes["cpu", "vim_nano/r0", RATE] == pytest.approx(0.0, abs=1e-9)


def test_rounds_taken_for_replicates_would_raise_false_alarms() -> None:
    """The reason for fresh processes: guards the simulation, whose process effect a naive rule must stumble over."""
    rng = np.random.default_rng(21)
    sides = rng.normal(0, 0.004, (2, 400, 1)) + rng.normal(0, 0.001, (2, 400, 24))
    alarms = welch(mean_of(sides[0]), mean_of(sides[1])).p_worse(0.0) <= 0.05
    assert alarms.mean() >= 0.2


def test_a_speed_up_may_move_by_the_margins_of_two_rates() -> None:
    assert Margins(0.005).of(SPEEDUP) == pytest.approx(0.00707, abs=1e-5)
    assert Margins(0.005).of(RATE) == 0.005


@pytest.mark.parametrize(("ratio", "outcome"), [(1.0, PASS), (0.97, FAIL), (0.9925, INCONCLUSIVE), (1.05, PASS)])
def test_an_exact_difference_gets_the_outcome_of_the_rule(ratio: float, outcome: str) -> None:
    wobble = (0.997, 1.0, 1.003, 0.998, 1.002)
    base = [{("d", "a", RATE): 100 * w} for w in wobble]
    head = [{("d", "a", RATE): 100 * ratio * w} for w in wobble]
    (change,) = judge(collect(base, head, Margins(0.005)))
    assert change.outcome == outcome
    assert change.change.value == pytest.approx(ratio - 1, abs=1e-9)
    assert change.change.low is not None
    assert change.change.low < change.change.value


def test_more_memory_is_worse_and_less_is_not() -> None:
    base = [{("d", "a", MEMORY): 1000.0}] * 5
    for factor, outcome in ((1.05, FAIL), (1.0, PASS), (0.5, PASS)):
        (change,) = judge(collect(base, [{("d", "a", MEMORY): 1000.0 * factor}] * 5, Margins()))
        assert change.outcome == outcome
        assert change.change.value == pytest.approx(factor - 1)


def test_holm_asks_for_more_where_more_is_left_to_chance() -> None:
    wobble = np.array([-0.004, -0.002, 0.0, 0.002, 0.004, 0.0])
    slow = mean_of(wobble - 0.0105)  # p is about 0.01 against the margin
    others = [mean_of(np.roll(wobble, i)) for i in range(9)]

    def outcome(tests: list) -> int:
        return int(decide(tests, [MARGIN] * len(tests), [-1] * len(tests), ALPHAS[1])[0])

    assert outcome([slow]) == FAILS
    assert outcome([slow, *others]) != FAILS
    assert outcome([slow, *[mean_of(np.zeros(6))] * 9]) == FAILS, "what is exactly the same leaves nothing to chance"


# the orchestration, with made-up records in place of processes


def made(rates: dict[int, float], **changes: object) -> RunRecord:
    device = DeviceRecord("cuda:a", "Some GPU", "cuda")
    found = arms("cuda:a", "vim_small", rates, accuracy=False)
    return record((device,), tuple(replace(arm, **changes) for arm in found))


class Processes:
    """Stands in for `bench.sides.start`: keeps the order of calls, answers by a function of the side and the number."""

    def __init__(self, answer) -> None:
        self.calls: list[str] = []
        self.accuracy: list[bool] = []
        self.answer = answer

    def __call__(self, names: tuple[str, ...], number: int, *, accuracy: bool) -> dict[str, RunRecord]:
        self.calls += names
        self.accuracy.append(accuracy)
        return {name: self.answer(name, number) for name in names}


def noisy(head: float = 1.0, sd: float = 0.003):
    rng = np.random.default_rng(1)

    def answer(name: str, number: int) -> RunRecord:
        factor = (head if name == "head" else 1.0) * float(np.exp(rng.normal(0, sd)))
        return made({0: 1000 * factor, 11: 1200 * factor})

    return answer


def gate(processes: Processes, **extra):
    return run_gate(("main", "HEAD"), processes, Rules(), **extra)


def test_sides_take_turns_so_that_drift_falls_on_both() -> None:
    assert [*order(0), *order(1), *order(2)] == ["base", "head", "head", "base", "base", "head"]
    processes = Processes(noisy())
    assert gate(processes).outcome == PASS
    assert processes.calls == [name for number in range(6) for name in order(number)]


def test_a_slower_head_fails_at_the_first_look() -> None:
    processes = Processes(noisy(head=0.95))
    found = gate(processes)
    assert (found.outcome, found.exit_code, found.pairs, found.extended) == (FAIL, 3, 6, False)
    failed = {(change.arm, change.metric) for change in found.changes if change.outcome == FAIL}
    assert failed == {("vim_small/r0", RATE), ("vim_small/r11", RATE)}, "the speed-up is the same: both arms got slower"


def test_a_faster_baseline_passes_and_the_gate_says_what_happened() -> None:
    def answer(name: str, number: int) -> RunRecord:
        return made({0: (1000.0 if name == "base" else 1100.0) + number % 2, 11: 1200.0 + number % 3})

    found = gate(Processes(answer))
    assert (found.outcome, found.extended) == (PASS, False)
    assert "the speed-up of vim_small/r11 fell because r = 0 got faster; vim_small/r11 itself is not slower" in found.notes


def test_an_arm_that_got_slower_beside_the_same_baseline_fails_in_its_speed_up_too() -> None:
    def answer(name: str, number: int) -> RunRecord:
        return made({0: 1000.0 + number % 2, 11: (1200.0 if name == "base" else 1100.0) + number % 3})

    assert {c.metric for c in gate(Processes(answer)).changes if c.outcome == FAIL} == {RATE, SPEEDUP}


def test_an_unclear_answer_is_extended_once_and_then_stays_inconclusive() -> None:
    processes = Processes(noisy(sd=0.05))
    found = gate(processes)
    assert (found.outcome, found.exit_code, found.pairs, found.extended) == (INCONCLUSIVE, 4, 12, True)
    assert len(processes.calls) == 24


def test_nothing_measured_is_neither_a_pass_nor_a_regression() -> None:
    def nothing(name: str, number: int) -> RunRecord:
        return replace(made({0: 1000.0}), arms=())

    with pytest.raises(MeasurementError, match="nothing is known") as refused:
        gate(Processes(nothing))
    assert refused.value.exit_code == 5

    def disjoint(name: str, number: int) -> RunRecord:
        run = made({0: 1000.0, 11: 1200.0})
        return replace(run, arms=run.arms[:1] if name == "base" else run.arms[1:])

    with pytest.raises(MeasurementError, match="nothing is known"):
        gate(Processes(disjoint))


def test_a_simulated_device_is_refused() -> None:
    simulated = record((DeviceRecord("sim:x", "X (simulated)", "sim"),), arms("sim:x", "vim_small", {0: 1.0}))
    with pytest.raises(MeasurementError, match="simulated"):
        gate(Processes(lambda name, number: simulated))


def test_an_invalid_process_is_measured_again_and_a_hopeless_side_refused() -> None:
    def once(name: str, number: int) -> RunRecord:
        bad = {"verdict": "THROTTLED", "verdict_detail": "hot"} if (name, number) == ("head", 1) else {}
        return made({0: 1000.0, 11: 1200.0}, **bad)

    found = gate(Processes(once))
    assert found.outcome == PASS
    assert any("head: 1 process(es) measured again" in note for note in found.notes)
    with pytest.raises(MeasurementError, match="head was not measured validly.*THROTTLED"):
        gate(Processes(lambda name, number: made({0: 1.0}, **({"verdict": "THROTTLED"} if name == "head" else {}))))


def test_an_arm_that_no_longer_fits_into_memory_fails() -> None:
    def answer(name: str, number: int) -> RunRecord:
        run = made({0: 1000.0, 11: 1200.0})
        lost = replace(run.arms[1], verdict="OOM", images_per_second=None, speedup=None)
        return run if name == "base" else replace(run, arms=(run.arms[0], lost))

    found = gate(Processes(answer))
    assert found.outcome == FAIL
    failed = [change.detail for change in found.changes if change.outcome == FAIL]
    assert failed == ["vim_small/r11 does not fit into memory any more"]


def answers(images: int, gained: int, lost: int, changed: int | None = None) -> PairedAnswers:
    """Of two programs: so many images became right, so many wrong."""
    before = np.arange(images) % 5 > 0
    after = before.copy()
    after[np.flatnonzero(before)[:lost]] = False
    after[np.flatnonzero(~before)[:gained]] = True
    return PairedAnswers(before, after, gained + lost if changed is None else changed)


@pytest.mark.parametrize(
    ("images", "gained", "lost", "outcome"),
    [(20_000, 100, 500, FAIL), (20_000, 100, 100, PASS), (2000, 9, 13, INCONCLUSIVE), (100, 0, 0, PASS)],
)
def test_accuracy_is_judged_beside_speed_by_the_images_of_one_pair(images: int, gained: int, lost: int, outcome: str) -> None:
    processes = Processes(noisy(sd=0.001))
    found = gate(processes, accuracy=lambda base, head: {("cuda:a", "vim_small/r11"): answers(images, gained, lost)})
    assert found.outcome == outcome
    (change,) = [change for change in found.changes if change.metric == TOP1]
    assert change.outcome == outcome
    assert change.change.value == pytest.approx(100 * (gained - lost) / images)
    assert not found.extended, "more processes bring no new images"
    assert processes.accuracy == [True] + 5 * [False]


def test_answers_that_are_all_the_same_pass_however_few() -> None:
    same, unlike = answers(20, 0, 0), answers(20, 0, 0, changed=3)
    judged = gate(Processes(noisy()), accuracy=lambda base, head: {("cuda:a", "vim_small/r11"): same})
    assert judged.outcome == PASS
    (change,) = [change for change in judged.changes if change.metric == TOP1]
    assert (change.change.value, change.change.low, change.change.high) == (0, 0, 0)
    assert "gave the same answer to each of 20 images" in " ".join(judged.notes)
    assert unlike.p_worse(0.2) > 0.01
    assert unlike.bounds(0.05)[0] < -0.4, "other wrong answers are no proof of anything on 20 images"


def test_the_margin_of_top1_says_how_many_images_it_requires() -> None:
    """With so many, a program without loss passes and one that loses two margins does not, in nine of ten cases or more."""
    needed = images_needed(0.2, 0.01)
    assert 20_000 < needed < 22_000
    rng = np.random.default_rng(22)
    lost_two = same = wrong = 0
    for _ in range(200):
        gained, lost = rng.binomial(needed, 0.005, 2)
        same += int(decide([answers(needed, gained, lost)], [0.2], [-1], ALPHAS[0])[0]) == PASSES
        gained, lost = rng.binomial(needed, 0.003), rng.binomial(needed, 0.007)  # 0.4 points are gone
        judged = int(decide([answers(needed, gained, lost)], [0.2], [-1], TOTAL_ALPHA)[0])
        lost_two += judged == FAILS
        wrong += judged == PASSES
    assert same >= 190
    assert lost_two >= 168
    assert wrong <= 20


def test_peak_memory_is_judged_where_it_is_known() -> None:
    def answer(name: str, number: int) -> RunRecord:
        return made({0: 1000.0}, peak_memory_mib=2000.0 if name == "base" else 2100.0)

    found = gate(Processes(answer))
    assert {change.metric: change.outcome for change in found.changes} == {RATE: PASS, MEMORY: FAIL}
