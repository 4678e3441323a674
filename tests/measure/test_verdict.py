"""Every verdict code has a scenario that produces it and no other; labels; what a paper may use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from rmeeto_bench.measure.devices.simulated import Scenario, SimDevice
from rmeeto_bench.measure.protocol import RoundsResult
from rmeeto_bench.measure.rounds import DEFAULT, PRESETS, QUICK, TimedArm, TimingProtocol, Watch, measure
from rmeeto_bench.measure.verdict import (
    INVALID,
    LABELS,
    REMEDIES,
    Evidence,
    Printed,
    device_spread,
    host_bound,
    invalid_codes,
    judge,
    judge_run,
    labels,
    worst,
)
from rmeeto_bench.profiles import load_profiles

PROFILE = next(profile for profile in load_profiles() if profile.name == "rtx4090")


@dataclass(frozen=True)
class Case:
    """A scenario, and what else brings a verdict about."""

    scenario: Scenario = field(default_factory=Scenario)
    protocol: TimingProtocol = DEFAULT
    stop_after: int | None = None
    real: bool = False  # judged as if the device were not simulated
    printed: Printed = field(default_factory=lambda: Printed(3, 0.001))


CASES = {
    "VALID": Case(real=True),
    "SIMULATED": Case(),
    "EXPLORATORY": Case(protocol=QUICK, real=True, printed=Printed(1, 0.001)),
    "OOM": Case(Scenario(out_of_memory=("b",))),
    "TOKENS_MISMATCH": Case(Scenario(tokens_mismatch=True)),
    "IDENTITY_FAILED": Case(Scenario(identity_failed=True)),
    "SLOW_PATH": Case(Scenario(slow_path=True)),
    "ENV_CHANGED": Case(Scenario(environment_changed=True)),
    "THROTTLED": Case(Scenario(throttle_share=1.0)),
    "CONTENDED": Case(Scenario(contended_share=1.0)),
    "NOT_MEASURED": Case(stop_after=0),
    "INTERRUPTED": Case(stop_after=9),
    "ALLOCATOR_GREW": Case(Scenario(memory_growth=2**20)),
    "GAP": Case(Scenario(host_stall=0.05)),
    "NOT_STEADY": Case(Scenario(drift=60.0, drift_seconds=2000.0)),
    "PRECISION_NOT_REACHED": Case(printed=Printed(3, 0.05)),
}


def outcome(case: Case) -> tuple[RoundsResult, Evidence]:
    """Through the real loop."""
    device = SimDevice(PROFILE, seed=1, scenario=case.scenario)
    arms = [TimedArm(name, device.step(name, seconds), 128) for name, seconds in (("a", 0.1), ("b", 0.08))]
    try:
        for arm in arms:
            arm.step()
    except torch.OutOfMemoryError:
        arms.pop()
    seen = []
    stop = lambda: case.stop_after is not None and len(seen) >= case.stop_after  # noqa: E731
    result = measure(device, arms, "a", case.protocol, Watch(seen.append, should_stop=stop))
    return result, replace(device.evidence(), simulated=not case.real)


def test_every_code_has_a_scenario() -> None:
    assert set(CASES) | {"ARM_FAILED"} == set(REMEDIES)  # which tests/bench/test_other_models.py has
    assert set(INVALID) | {"SIMULATED", "EXPLORATORY", "VALID"} == set(REMEDIES)


@pytest.mark.parametrize("code", list(CASES))
def test_a_scenario_produces_its_code_and_no_other(code: str) -> None:
    case = CASES[code]
    result, evidence = outcome(case)
    assert judge_run([result] * 3, case.protocol, case.printed, evidence) == code
    alone = code in INVALID and code != "PRECISION_NOT_REACHED"  # no session knows the printed interval
    assert invalid_codes(result, case.protocol, evidence) == ((code,) if alone else ())


@pytest.mark.parametrize(("code", "share"), [("THROTTLED", "throttle_share"), ("CONTENDED", "contended_share")])
def test_never_ending_trouble_ends_at_the_cap_with_its_blocks_kept(code: str, share: str) -> None:
    device = SimDevice(PROFILE, seed=1, scenario=Scenario(**{share: 1.0}))
    blocks: list = []
    result = measure(device, [TimedArm("a", device.step("a", 0.1), 8)], "a", DEFAULT, Watch(blocks.append))
    assert result.ended == "rejected"
    assert result.rejected == {code: DEFAULT.max_rejected + 1}
    assert len(blocks) == DEFAULT.max_rejected + 1
    assert all(block.rejected_reason.startswith(code) for block in blocks)


@pytest.mark.parametrize(
    ("scenario", "evidence", "expected"),
    [
        (Scenario(), Evidence(), ()),
        (Scenario(power_cap_w=200.0), Evidence(), ("POWER_LIMITED",)),
        (Scenario(drift=0.05), Evidence(), ("UNLOCKED",)),
        (Scenario(), Evidence(synthetic_input=True), ("SYNTHETIC_INPUT",)),
        (Scenario(), Evidence(host_bound=True), ("HOST_BOUND",)),
        (Scenario(mig=True), Evidence(mig=True), ("MIG",)),
        (Scenario(), Evidence(device_spread=True), ("DEVICE_SPREAD",)),
    ],
)
def test_labels_do_not_make_a_result_invalid(scenario: Scenario, evidence: Evidence, expected: tuple[str, ...]) -> None:
    result, found = outcome(Case(scenario, real=True))
    assert labels(result, evidence) == expected
    assert found.mig is scenario.mig
    assert judge(result, DEFAULT, evidence) == "VALID"


def test_every_label_has_a_sentence_and_every_code_one_remedy() -> None:
    every = replace(RoundsResult(1, True, "precise", 0.0), power_limited=True, unlocked=True)
    evidence = Evidence(synthetic_input=True, host_bound=True, mig=True, device_spread=True)
    assert labels(every, evidence) == tuple(LABELS)
    for code, text in {**REMEDIES, **LABELS}.items():
        assert code == "VALID" or (len(text) > 20 and "\n" not in text and not text.endswith("."))


def test_the_most_fundamental_of_several_codes_is_the_verdict() -> None:
    result = RoundsResult(12, False, "rounds", 0.1, gaps=1.0, grew=5)
    everything = Evidence(simulated=True, out_of_memory=True, tokens_mismatch=True)
    assert judge(result, DEFAULT, everything) == "OOM"
    assert judge(result, DEFAULT) == "ALLOCATOR_GREW"
    assert len(invalid_codes(result, DEFAULT, everything)) == 5


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_preset_makes_one_or_two_processes_valid(name: str) -> None:
    """However narrow the interval: it does not know how processes differ."""
    result = RoundsResult(60, True, "rounds", 0.0001)
    for sessions in (1, 2):
        assert judge_run([result] * sessions, PRESETS[name], Printed(sessions, 0.0001)) == "EXPLORATORY"
    assert judge_run([result] * 3, PRESETS[name], Printed(3, 0.0001)) == "VALID"


def test_the_printed_interval_is_judged_and_no_other() -> None:
    """Each session may know its own value well while the sessions differ, and the other way round."""
    sharp, blunt = (RoundsResult(12, True, "rounds", width) for width in (0.0001, 0.5))
    within, beyond = Printed(3, 0.9 * DEFAULT.target), Printed(3, 1.1 * DEFAULT.target)
    assert judge_run([sharp] * 3, DEFAULT, beyond) == "PRECISION_NOT_REACHED"
    assert judge_run([blunt] * 3, DEFAULT, within) == "VALID"
    assert judge_run([sharp] * 3, DEFAULT, Printed(3, None)) == "VALID"  # the baseline has no speed-up
    lucky = Printed(3, 0.0001, middle=1.1 * DEFAULT.target)  # one arm agrees, half of them do not
    assert judge_run([sharp] * 3, DEFAULT, lucky) == "PRECISION_NOT_REACHED"


def test_a_run_is_as_good_as_its_worst_session() -> None:
    assert worst(["VALID", "VALID"]) == "VALID"
    assert worst(["VALID", "NOT_STEADY", "THROTTLED"]) == "THROTTLED"
    assert worst(["SIMULATED", "EXPLORATORY"]) == "SIMULATED"
    assert worst([]) == "NOT_MEASURED"


def test_one_stalled_block_in_a_hundred_is_no_gap() -> None:
    assert judge(RoundsResult(50, True, "precise", 0.001, gaps=0.01), DEFAULT) == "VALID"


def test_thresholds() -> None:
    assert host_bound(0.8, 1.0)
    assert not host_bound(0.79, 1.0)
    assert device_spread({"a": 100.0, "b": 97.9})
    assert not device_spread({"a": 100.0, "b": 98.1})
    assert not device_spread({"a": 100.0})
