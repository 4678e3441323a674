"""How noisy a device is, from measuring the same thing twice (A/A): what `calibrate` finds out and the gate relies on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rmeeto_bench.bench.session.noise import ARM, TWIN, UNOBSERVED
from rmeeto_bench.compare.gate import PAIRS
from rmeeto_bench.compare.gate_power import PairNoise, fails_and_passes, margin_for
from rmeeto_bench.compare.gate_rule import Margins
from rmeeto_bench.compare.readings import Rounds
from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.files import cache_folder, write_atomic
from rmeeto_bench.measure.statistics import hodges_lehmann, numbered_rounds, run_speedup
from rmeeto_bench.records.comparison import share_text
from rmeeto_bench.records.run import Block, Estimate

SCHEMA = "rmeeto-bench-noise/1"
ROUNDS = 6  # complete rounds without which a process is left out


@dataclass(frozen=True)
class Noise:
    """How noisy a device is, and what follows for a gate on it. Relative, if not said otherwise: 0.01 is 1 %."""

    sessions: int  # processes
    rounds: int  # of all processes
    within_sd: float  # of the time of one block about its round
    between_sd: float  # of an arm from process to process, beyond that
    rate_sd: float  # of a session's images/s
    drift: float  # slow-down per minute of measuring
    pair_rate_sd: float  # of the change of images/s within a pair of the gate, where nothing changed
    pair_speedup_sd: float  # of the change of a speed-up, the same
    pair_degrees: float  # degrees of freedom of these two
    margin: float  # of images/s: the smallest, from the gate's default on, with which a gate is decisive here
    fails: float | None  # the loss that a gate with this margin FAILs in 95 of 100 cases; None if there is none
    passes: float | None  # the loss that it PASSes in 95 of 100; None if not even no loss
    telemetry_cost: Estimate  # slow-down by being watched, with its interval

    @property
    def pair(self) -> PairNoise:
        """What a pair of the gate sees of it."""
        return PairNoise(self.pair_rate_sd, self.pair_speedup_sd, self.pair_degrees)


@dataclass(frozen=True)
class NoiseProfile:
    """The noise of one device, and when and with what it was found out."""

    device_id: str  # id of the device
    device_name: str  # as the driver or the operating system gives it
    created_utc: str  # when it was found out
    tool_version: str  # of this package
    noise: Noise  # what was found
    schema: str = SCHEMA  # version of this format


def _drift_per_minute(blocks: Sequence[Block]) -> float:
    """Slope of `ARM`'s log seconds per image over the wall time of one session's blocks, after Theil and Sen."""
    times, logs, now = [], [], 0.0
    for block in blocks:
        if block.arm == ARM:
            times.append((now + block.wall_seconds / 2) / 60)
            logs.append(np.log(block.seconds / block.images))
        now += block.wall_seconds
    return float(stats.theilslopes(logs, times)[0])


def _robust_sd(values: NDArray[np.float64]) -> float:
    return float(stats.median_abs_deviation(values, scale="normal"))


def estimate_noise(blocks: Iterable[Block], *, turns: bool = False) -> Noise:
    """Noise from the blocks of `ARM`, `TWIN` and `UNOBSERVED` over several sessions. `turns`: sessions 0 and 1, 2 and 3, ...
    were pairs that took turns; else every session makes a pair with the one after it, as in a gate.

    Raises `MeasurementError` for fewer than three sessions of six complete rounds, or two pairs: these have no spread to speak
    of.
    """
    sessions: dict[int, list[Block]] = {}
    for block in blocks:
        sessions.setdefault(block.session, []).append(block)
    rounds = {number: numbered_rounds(found, (ARM, TWIN, UNOBSERVED))[0] for number, found in sorted(sessions.items())}
    whole = {number: found for number, found in rounds.items() if len(found) >= ROUNDS}
    neighbours = [(n, n + 1) for n in whole if n + 1 in whole and (not turns or n % 2 == 0)]
    if len(neighbours) < 2:
        reasons = sorted({block.rejected_reason for found in sessions.values() for block in found if block.rejected_reason})
        dropped = f" (dropped: {reasons[0]})" if reasons else ""
        raise MeasurementError(
            f"calibrating needs two pairs of processes with {ROUNDS} complete rounds each{dropped}; "
            "let the machine idle and start again"
        )
    first = [_logs(found, ARM) for found in whole.values()]
    differences = [_logs(found, TWIN) - one for found, one in zip(whole.values(), first, strict=True)]
    # between two blocks of a round: twice the variance of one; removing a session's own median takes a degree of freedom
    residuals = np.concatenate([(d - np.median(d)) * np.sqrt(len(d) / (len(d) - 1)) for d in differences])
    within = _robust_sd(residuals) / np.sqrt(2)
    centres = np.array([hodges_lehmann(d) for d in differences])
    by_chance = 2 * within**2 * (np.pi / 3) * np.mean([1 / len(d) for d in differences])  # of a Hodges-Lehmann estimate
    between = np.sqrt(max(0.0, centres.var(ddof=1) - by_chance) / 2)
    drifts = [_drift_per_minute(found) for found in sessions.values() if sum(b.arm == ARM for b in found) >= ROUNDS]
    watched, not_watched = ([np.exp(_logs(found, arm)) for found in whole.values()] for arm in (ARM, UNOBSERVED))
    cost = run_speedup(watched, not_watched)
    pair = _pair_noise([(whole[a], whole[b]) for a, b in neighbours], turns=turns)
    margin = margin_for(pair, PAIRS, Margins().rate)
    fails, passes = fails_and_passes(pair, margin, PAIRS)
    return Noise(
        sessions=len(whole),
        rounds=sum(len(one) for one in first),
        within_sd=within,
        between_sd=float(between),
        rate_sd=float(np.std([hodges_lehmann(one) for one in first], ddof=1)),
        drift=float(np.median(drifts)),
        pair_rate_sd=pair.rate_sd,
        pair_speedup_sd=pair.speedup_sd,
        pair_degrees=pair.degrees,
        margin=margin,
        fails=fails,
        passes=passes,
        telemetry_cost=Estimate(cost.value - 1, *(None if end is None else end - 1 for end in (cost.low, cost.high))),
    )


def gate_sentence(noise: Noise) -> str:
    """What a gate will do on this device, from the noise found on it."""
    which = f"a gate of {PAIRS} pairs with a margin of {share_text(noise.margin)} of images/s"
    fails = "FAILs no loss" if noise.fails is None else f"FAILs a loss of {share_text(noise.fails)}"
    if noise.passes is None:
        return f"{which} {fails} in 95 of 100 cases, and an unchanged program does not PASS so often: let the machine idle"
    passes = "a program without loss" if noise.passes < 0.0005 else f"a loss of {share_text(noise.passes)}"
    return f"{which} {fails}, and PASSes {passes}, in 95 of 100 cases each"


def _logs(rounds: Rounds, arm: str) -> NDArray[np.float64]:
    return np.log([found[arm] for found in rounds.values()])


def _pair_noise(pairs: Sequence[tuple[Rounds, Rounds]], *, turns: bool) -> PairNoise:
    """The spread of changes within pairs of one program, whose true value is zero.

    Pairs that overlap (each session with the one after it) are not independent: n + 1 sessions give n differences with
    2 n^2 / (3 n - 1) degrees of freedom (von Neumann).
    """
    rates = np.array([[_change(first, second, arm, turns=turns) for arm in (ARM, TWIN)] for first, second in pairs])
    count = len(pairs)
    degrees = float(count) if turns else 2 * count**2 / (3 * count - 1)
    speedup_sd = float(np.sqrt(np.mean((rates[:, 1] - rates[:, 0]) ** 2)))
    return PairNoise(float(np.sqrt(np.mean(rates**2))), speedup_sd, degrees)


def _change(first: Rounds, second: Rounds, arm: str, *, turns: bool) -> float:
    """The logarithmic change as the gate finds it: by rounds that took turns, else of the two processes."""
    if turns:
        return hodges_lehmann([np.log(first[n][arm] / second[n][arm]) for n in sorted(first.keys() & second.keys())])
    return hodges_lehmann(_logs(first, arm)) - hodges_lehmann(_logs(second, arm))


def noise_folder() -> Path:
    """Where noise profiles are kept: `$XDG_CACHE_HOME/rmeeto-bench/noise`, by default below `~/.cache`."""
    return cache_folder("noise")


def _path(device_id: str, folder: Path | None) -> Path:
    return (folder or noise_folder()) / (re.sub(r"[^A-Za-z0-9.-]+", "_", device_id) + ".json")


def save_noise_profile(profile: NoiseProfile, folder: Path | None = None) -> Path:
    """Write a profile, over an older one of the same device, and return its path."""
    path = _path(profile.device_id, folder)
    write_atomic(path, json.dumps(asdict(profile), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def load_noise_profile(device_id: str, folder: Path | None = None) -> NoiseProfile | None:
    """The profile of a device by its id (`cpu`, `cuda:<UUID>`, `sim:<name>`), or None if it was never calibrated.

    Raises `DataError` for a file that is no such profile.
    """
    path = _path(device_id, folder)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA or value["device_id"] != device_id:
            raise ValueError(f"it is {value['schema']!r} of {value['device_id']!r}")
        noise = {**value["noise"], "telemetry_cost": Estimate(**value["noise"]["telemetry_cost"])}
        return NoiseProfile(**{**value, "noise": Noise(**noise)})
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no noise profile ({error}); run calibrate again") from error
