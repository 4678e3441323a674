"""Made runs whose truth is known: log seconds of arms under process effects, wandering and moods, many runs at once.

The truth is what a reader wants to know: the arms on average over processes. Heat is the simulated device's (`intervals.py`).
Nothing here knows how a run is analysed; `intervals.py` and the tests do that with the tool's own functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Times = list[dict[str, Floats]]  # seconds per image by session and arm, paired by position


@dataclass(frozen=True)
class Noise:
    """What disturbs a run. Shares: 0.01 is 1 %."""

    block_sd: float = 0.002  # of each block by itself
    machine_sd: float = 0.004  # of slow noise that all arms feel alike
    machine_memory: float = 0.9  # correlation of that noise from block to block
    process_sd: float = 0.0  # between processes, of each arm by itself
    tails: bool = False  # processes differ with Student's four degrees of freedom, not normally
    outliers: float = 0.0  # share of blocks that are slower by 5 %
    drift: float = 0.0  # slow-down of all arms alike over a session
    mood: float = 0.0  # slow-down of the machine in its bad mood
    mood_felt: float = 0.9  # share of it that every arm but the baseline feels
    mood_blocks: int = 0  # a mood lasts this many blocks; 0: as long as the process


@dataclass(frozen=True)
class Shape:
    """How a run is measured."""

    sessions: int = 6  # fresh processes
    rounds: int = 8  # of each session
    arms: int = 6  # the first is the baseline, the last the fastest


def _moods(noise: Noise, shape: Shape, runs: int, random: np.random.Generator) -> Floats:
    """Whether the machine is in its bad mood, [runs, sessions, blocks]."""
    blocks = shape.rounds * shape.arms
    if noise.mood_blocks == 0:
        moody = random.random((runs, shape.sessions, 1)) < 0.5
        return np.broadcast_to(moody, (runs, shape.sessions, blocks)).astype(float)
    phase = random.integers(0, 2 * noise.mood_blocks, (runs, shape.sessions, 1))
    return ((np.arange(blocks) + phase) // noise.mood_blocks % 2).astype(float)


def logs(noise: Noise, shape: Shape, runs: int, seed: int) -> Floats:
    """Log seconds beyond each arm's true cost in an average mood: [runs, sessions, rounds, arms]."""
    random = np.random.default_rng(seed)
    size = (runs, shape.sessions, shape.rounds, shape.arms)
    blocks = shape.rounds * shape.arms
    order = random.random(size).argsort(axis=-1)  # the position of each arm in its round
    place = np.arange(shape.rounds)[:, None] * shape.arms + order  # index of the block within the session
    innovation = random.normal(0, noise.machine_sd * np.sqrt(1 - noise.machine_memory**2), (*size[:2], blocks))
    innovation[..., 0] = random.normal(0, noise.machine_sd, size[:2])
    machine = lfilter([1.0], [1.0, -noise.machine_memory], innovation, axis=-1)
    machine = machine + np.log1p(noise.drift * np.arange(blocks) / blocks)

    def at(state: Floats) -> Floats:
        """The machine's state [runs, sessions, blocks] at the block of each arm and round."""
        return np.take_along_axis(state, place.reshape(*size[:2], -1), axis=-1).reshape(size)

    found = at(machine) + random.normal(0, noise.block_sd, size)
    own = (*size[:2], 1, shape.arms)
    found += noise.process_sd * (random.standard_t(4, own) / np.sqrt(2) if noise.tails else random.normal(size=own))
    found += np.log(1.05) * (random.random(size) < noise.outliers)
    if noise.mood:
        felt = np.where(np.arange(shape.arms) == 0, 1.0, noise.mood_felt)
        found += np.log1p(noise.mood) * felt * (at(_moods(noise, shape, runs, random)) - 0.5)
    return found


def times(noise: Noise, shape: Shape, runs: int, seed: int) -> Iterator[Times]:
    """The same run by run, as the store gives it: every arm truly takes one second an image, so that a speed-up is 1."""
    names = [f"arm{i}" for i in range(shape.arms)]
    for run in np.exp(logs(noise, shape, runs, seed)):
        yield [{name: session[:, i] for i, name in enumerate(names)} for session in run]
