"""What one process, or one session of a stored run, shows of each arm: the values that a gate compares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmeeto_bench.bench.store.untrusted import open_stored
from rmeeto_bench.compare.gate_rule import Readings
from rmeeto_bench.measure.statistics import hodges_lehmann, numbered_rounds
from rmeeto_bench.records.comparison import MEMORY, RATE, SPEEDUP
from rmeeto_bench.records.run import Arm, RunRecord

USABLE = ("VALID", "EXPLORATORY")  # a quick session is a sound replicate: the interval comes from the processes' spread
FEWEST = 3  # rounds that two processes must share
Rounds = dict[int, dict[str, float]]  # round number -> arm -> seconds per image


def readings_of(record: RunRecord) -> dict[tuple[str, str, str], float]:
    """(device, arm, metric) -> value, for every arm of a run that may be used."""
    found: dict[tuple[str, str, str], float] = {}
    for arm in record.arms:
        if arm.verdict not in USABLE or arm.images_per_second is None:
            continue
        found[arm.device, arm.arm, RATE] = arm.images_per_second.value
        if not arm.is_baseline and arm.speedup is not None:
            found[arm.device, arm.arm, SPEEDUP] = arm.speedup.value
        if arm.peak_memory_mib:
            found[arm.device, arm.arm, MEMORY] = arm.peak_memory_mib
    return found


def _timed(folder: Path, record: RunRecord) -> Iterator[tuple[str, list[Arm], list[Rounds]]]:
    """(device, arms, the rounds of each session that is done), for every device and group of arms."""
    with open_stored(folder) as store:
        for device, group in dict.fromkeys((arm.device, arm.group) for arm in record.arms):
            arms = [arm for arm in record.arms if (arm.device, arm.group) == (device, group) and arm.images_per_second]
            names = [arm.arm for arm in arms]
            stored = store.blocks(device)
            done = {session.session for session in store.sessions(device, kind="timing") if session.status == "done"}
            done &= {block.session for block in stored if block.arm in names}
            yield device, arms, numbered_rounds([block for block in stored if block.session in done], names)


def _logs(rounds: Rounds, arm: str, numbers: list[int] | None = None) -> NDArray[np.float64]:
    return np.log([rounds[number][arm] for number in numbers or rounds])


def session_readings(folder: Path, record: RunRecord) -> list[Readings]:
    """The values of each session of a stored run."""
    found: list[dict[tuple[str, str, str], float]] = []
    for device, arms, sessions in _timed(folder, record):
        baseline = next((arm.arm for arm in arms if arm.is_baseline), None)
        for number, rounds in enumerate(rounds for rounds in sessions if rounds):
            found += [{} for _ in range(number + 1 - len(found))]
            for arm in arms:
                times = _logs(rounds, arm.arm)
                found[number][device, arm.arm, RATE] = math.exp(-hodges_lehmann(times))
                if not arm.is_baseline and baseline is not None:
                    found[number][device, arm.arm, SPEEDUP] = math.exp(hodges_lehmann(_logs(rounds, baseline) - times))
    return list(found)


def round_changes(base: tuple[Path, RunRecord], head: tuple[Path, RunRecord]) -> dict[tuple[str, str, str], float]:
    """The logarithmic change of head over base in every rate and speed-up, from the stores of two processes that took turns:
    the Hodges-Lehmann mean over the rounds that both have. Rounds belong together by session and number, so that one that a
    side had to drop takes only its partner with it."""
    found: dict[tuple[str, str, str], float] = {}
    theirs = {(device, arms[0].group): sessions for device, arms, sessions in _timed(*head) if arms}
    for device, arms, sessions in _timed(*base):
        shared = [
            (first, second, sorted(first.keys() & second.keys()))
            for first, second in zip(sessions, theirs.get((device, arms[0].group) if arms else ("", ""), ()))
        ]
        if sum(len(numbers) for *_, numbers in shared) < FEWEST:
            continue
        names = [arm.arm for arm in arms if all(arm.arm in second[n] for _, second, numbers in shared for n in numbers)]
        faster = {
            name: np.concatenate([_logs(one, name, both) - _logs(two, name, both) for one, two, both in shared if both])
            for name in names
        }
        found |= {(device, name, RATE): hodges_lehmann(logs) for name, logs in faster.items()}
        baseline = next((arm.arm for arm in arms if arm.is_baseline and arm.arm in faster), None)
        if baseline is not None:
            for arm in (arm for arm in arms if not arm.is_baseline and arm.arm in faster):
                found[device, arm.arm, SPEEDUP] = hodges_lehmann(faster[arm.arm] - faster[baseline])
    return found


def unusable_pair(changes: Mapping[tuple[str, str, str], float], base: Readings, head: Readings) -> str:
    """Why a pair of processes is no replicate: something that both measured has no change within the pair. Or nothing."""
    missing = [key for key in base if key in head and key not in changes]
    return f"the two processes share fewer than {FEWEST} rounds of {missing[0][1]}" if missing else ""
