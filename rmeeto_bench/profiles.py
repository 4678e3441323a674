"""Each kind of GPU: its names, rates and memory, and the software it needs.

One TOML file per kind in `profiles/`; rates are the vendor's, `source` says from where.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.files import shipped
from rmeeto_bench.records.check import check
from rmeeto_bench.validate import close_to


def profile_named(name: str) -> GpuProfile:
    known = {profile.name: profile for profile in load_profiles()}
    if name in known:
        return known[name]
    raise UsageError(f"unknown GPU {name!r}{close_to(name, known)}; `rmeeto-bench profiles` lists the names")


LARGEST = 100_000  # bytes of a profile
LONGEST_PATTERN = 200
NESTED_REPEAT = re.compile(r"[+*}][^()]*\)[+*{]")  # (a+)+ backtracks exponentially


@dataclass(frozen=True)
class GpuProfile:
    """One kind of device, with the vendor's rates (0 for a processor)."""

    name: str  # as given on the command line, and name of the file
    display: str  # name for people
    pattern: str  # regular expression on the device name that the driver gives
    memory_gib: tuple[float, float]  # from, to; tells variants of one name apart
    architecture: str  # vendor's name, as in Hopper
    compute_capability: str  # as in 9.0
    multiprocessors: int  # 0 where no rates are known
    boost_mhz: int  # boost clock
    fp16_tflops: float  # dense tensor cores with fp32 accumulation, 10^12 operations/s
    fp32_tflops: float  # 10^12 operations/s, two per multiply-add
    sfu_per_clock: int  # special functions per clock and multiprocessor
    bandwidth_gbs: float  # DRAM bandwidth, GB/s
    l2_mb: float  # second-level cache, MiB
    power_w: int  # board power limit
    source: str  # document from which the rates were taken
    paper_column: str = ""  # the paper's name of this GPU in its Table 12; empty: not in it
    software: str = ""  # what software this GPU needs, in one sentence; empty: nothing special
    ray: str = ""  # name of this GPU in Ray
    slurm: str = ""  # name of this GPU in Slurm

    def matches(self, device_name: str, memory_gib: float | None) -> bool:
        """Whether a device of this name (and memory, where known) is of this kind."""
        low, high = self.memory_gib
        fits = memory_gib is None or low <= memory_gib <= high
        return fits and re.search(self.pattern, device_name, re.IGNORECASE) is not None


def _read(path: Path) -> GpuProfile:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"profile {path} is larger than any profile; it is not read")
        value: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"profile {path} cannot be read: {error}") from error
    known = {field.name: str(field.type) for field in fields(GpuProfile)}
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise DataError(f"profile {path}: unknown key {unknown[0]!r:.60}; the keys are {', '.join(known)}")
    kinds = {"str": str, "int": int, "float": (int, float), "tuple[float, float]": list}
    for key, given in value.items():
        if not isinstance(given, kinds[known[key]]) or isinstance(given, bool):  # type: ignore[arg-type]
            raise DataError(f"profile {path}: {key} must be a {known[key]}, not {given!r:.60}")
    try:
        profile = GpuProfile(**{**value, "memory_gib": tuple(value.get("memory_gib", (0.0, 1e6)))})
        re.compile(profile.pattern)
    except (TypeError, re.error) as error:
        raise DataError(f"profile {path}: {error}") from error
    if len(profile.memory_gib) != 2 or profile.name != path.stem:
        raise DataError(f"profile {path}: memory_gib is [from, to], and name must be {path.stem!r} like the file")
    _check(profile, path)
    return profile


def _check(profile: GpuProfile, path: Path) -> None:
    """Refuse values that would break a terminal, a division or a search. Raises `DataError`."""
    check(profile, GpuProfile, f"profile {path}")
    if len(profile.pattern) > LONGEST_PATTERN or NESTED_REPEAT.search(profile.pattern):
        raise DataError(f"profile {path}: pattern is over {LONGEST_PATTERN} long, or repeats a repetition and may never end")
    for field in fields(GpuProfile):
        value = getattr(profile, field.name)
        if isinstance(value, (int, float)) and not 0 <= value < 1e9:
            raise DataError(f"profile {path}: {field.name} is {value}, no rate or size of a GPU")
    low, high = profile.memory_gib
    if not 0 <= low <= high:
        raise DataError(f"profile {path}: memory_gib [{low}, {high}] is no range")


@cache
def load_profiles(folder: Path | None = None) -> tuple[GpuProfile, ...]:
    """All profiles of a folder (default: those shipped), validated. Raises `DataError` naming file and key."""
    return tuple(_read(path) for path in sorted((folder or shipped("profiles")).glob("*.toml")))


def match_profile(device_name: str, memory_gib: float | None = None) -> GpuProfile | None:
    """The profile of a device by the name its driver gives it, or None if no profile describes its kind."""
    return next((profile for profile in load_profiles() if profile.matches(device_name, memory_gib)), None)
