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

from rmeeto_bench.errors import DataError, MeasurementError
from rmeeto_bench.files import cache_folder, write_atomic
from rmeeto_bench.measure.statistics import complete_rounds, hodges_lehmann, run_speedup
from rmeeto_bench.records.run import Block, Estimate

SCHEMA = "rmeeto-bench-noise/1"
ARM, TWIN, UNOBSERVED = "A", "A'", "A without telemetry"  # the same program three times
GATE_PROCESSES = 5  # per side of a gate


@dataclass(frozen=True)
class Noise:
    """All relative (0.01 is 1 %).

    `within_sd`: of one block's time about its round · `between_sd`: of an arm from process to process, beyond that ·
    `rate_sd`: of a session's images/s · `drift`: slow-down per minute of measuring · `smallest_speedup_effect`,
    `smallest_rate_effect`: the change of a speed-up, or of images/s, that a gate of five processes a side finds in 95 of 100
    cases · `telemetry_cost`: slow-down by being watched, with its interval.
    """

    sessions: int
    rounds: int
    within_sd: float
    between_sd: float
    rate_sd: float
    drift: float
    smallest_speedup_effect: float
    smallest_rate_effect: float
    telemetry_cost: Estimate


@dataclass(frozen=True)
class NoiseProfile:
    """The noise of one device, and when and with what it was found out."""

    device_id: str
    device_name: str
    created_utc: str
    tool_version: str
    noise: Noise
    schema: str = SCHEMA


def smallest_effect(sd: float, processes: int = GATE_PROCESSES, *, level: float = 0.95, power: float = 0.95) -> float:
    """The relative difference of two means of `processes` sessions each that a one-sided t test finds with this power."""
    degrees = 2 * processes - 2
    quantiles = stats.t.ppf(level, degrees) + stats.t.ppf(power, degrees)
    return float(quantiles * sd * np.sqrt(2 / processes))


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


def estimate_noise(blocks: Iterable[Block]) -> Noise:
    """Noise from the blocks of `ARM`, `TWIN` and `UNOBSERVED` over several sessions.

    Raises `MeasurementError` for fewer than two sessions of six complete rounds: these have no spread to speak of.
    """
    everything = list(blocks)
    by_session = complete_rounds(everything, (ARM, TWIN, UNOBSERVED))
    whole = [rounds for rounds in by_session if len(rounds[ARM]) >= 6]
    if len(whole) < 2:
        reasons = sorted({block.rejected_reason for block in everything if block.rejected_reason})
        dropped = f" (dropped: {reasons[0]})" if reasons else ""
        raise MeasurementError(
            f"calibrating needs two processes with six complete rounds{dropped}; let the machine idle and start again"
        )
    first = [np.log(rounds[ARM]) for rounds in whole]
    differences = [np.log(rounds[TWIN]) - one for rounds, one in zip(whole, first, strict=True)]
    # between two blocks of a round: twice the variance of one; removing a session's own median takes a degree of freedom
    residuals = np.concatenate([(d - np.median(d)) * np.sqrt(len(d) / (len(d) - 1)) for d in differences])
    within = _robust_sd(residuals) / np.sqrt(2)
    centres = np.array([hodges_lehmann(d) for d in differences])
    by_chance = 2 * within**2 * (np.pi / 3) * np.mean([1 / len(d) for d in differences])  # of a Hodges-Lehmann estimate
    between = np.sqrt(max(0.0, centres.var(ddof=1) - by_chance) / 2)
    rate_sd = float(np.std([hodges_lehmann(one) for one in first], ddof=1))
    sessions: dict[int, list[Block]] = {}
    for block in everything:
        sessions.setdefault(block.session, []).append(block)
    drifts = [_drift_per_minute(found) for found in sessions.values() if sum(b.arm == ARM for b in found) >= 6]
    cost = run_speedup([rounds[ARM] for rounds in whole], [rounds[UNOBSERVED] for rounds in whole])
    return Noise(
        sessions=len(whole),
        rounds=sum(len(one) for one in first),
        within_sd=within,
        between_sd=float(between),
        rate_sd=rate_sd,
        drift=float(np.median(drifts)),
        smallest_speedup_effect=smallest_effect(float(centres.std(ddof=1))),
        smallest_rate_effect=smallest_effect(rate_sd),
        telemetry_cost=Estimate(cost.value - 1, *(None if end is None else end - 1 for end in (cost.low, cost.high))),
    )


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
