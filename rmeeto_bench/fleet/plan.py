"""The tasks of a fleet: one per kind of GPU and model, each an ordinary run that any machine of that kind can carry out."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.environment import commit
from rmeeto_bench.bench.plan.plan import PATHS, BenchPlan, group_cells
from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.files import plain, shipped
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.cell import code_version
from rmeeto_bench.version import __version__

CPU = "cpu"
LARGEST = 1 << 20  # bytes of a plan
SWITCHES = (
    *("together", "compile", "no-graphs", "quick", "rigorous", "sustained"),
    *("paper-mode", "energy", "fed", "accuracy-only"),
)
VALUES = (
    *("kinds", "model", "img-size", "ratios", "r", "checkpoints", "data", "inputs", "images"),
    *("labels", "class-map", "on-error", "batch-size", "precision", "backend", "seed", "device", "baseline", "what"),
)
PER_KIND = ("checkpoints", "data", "labels", "class-map")  # paths that may lie elsewhere on the machines of one kind


@dataclass(frozen=True)
class Task:
    """One run on one device: all arms that share rounds, those of one model or of all models together."""

    kind: str  # name of a GPU profile, or cpu
    model: str  # name of the model, or of all
    plan: dict[str, Any]  # a `BenchPlan` as a dictionary of plain values
    code: str  # version and commit that a host must have to take part
    profiles: str  # digest of the GPU profiles that a host must have to take part

    @property
    def id(self) -> str:
        """A readable id, usable as a folder name. Planning the same task again gives the same id."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.kind}-{plain(self.model)}-{digest[:10]}"

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms its run must have in the end."""
        return tuple(cell.name for cell in group_cells(BenchPlan.from_dict(self.plan), self.model))


def own_code() -> str:
    """Version and commit of the code that runs here."""
    return code_version(__version__, {"git_commit": commit()})


def own_profiles() -> str:
    """A digest of the GPU profiles here: all hosts must name a device, and compare it, in the same way."""
    digest = hashlib.sha256()
    for path in sorted(shipped("profiles").glob("*.toml")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def check_kinds(text: str) -> tuple[str, ...]:
    """`a100-sxm-80,v100` -> the profiles' names. Raises `UsageError`, which lists the known names."""
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    known = [profile.name for profile in load_profiles()]
    for kind in kinds:
        if kind not in known:
            raise UsageError(f"--kinds: no profile {kind!r}; choose {', '.join(known)}")
    return kinds


def tasks(plan: BenchPlan, kinds: Sequence[str], paths: Mapping[str, Mapping[str, str]], *, simulated: bool) -> list[Task]:
    """A task for each kind and model. `paths`: kind -> where its machines have the checkpoints and data."""
    if simulated and CPU in kinds:
        raise UsageError("--device sim simulates GPUs; leave cpu out of --kinds")
    found = []
    for kind in kinds:
        gpus = "none" if kind == CPU else f"sim:{kind}" if simulated else kind
        own = dict(paths.get(kind, {}))
        files: dict[str, Any] = {name: Path(own[key]) for name in PATHS if (key := name.replace("_", "-")) in own}
        local = replace(plan, gpus=gpus, checkpoints=own.get("checkpoints", plan.checkpoints), **files)
        for group, models in plan.groups.items():
            settings = replace(local, models=models).as_dict()
            plain = json.loads(json.dumps(settings))  # tuples become lists, as they will be after the journey
            found.append(Task(kind, group, plain, own_code(), own_profiles()))
    return found


def _word(path: Path, key: str, value: Any) -> list[str]:
    """The flags that a line of a plan stands for."""
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise DataError(f"{path}: {key} is true or false, not {value!r:.60}")
        return [f"--{key}"] if value else []
    if key not in VALUES:
        raise DataError(f"{path}: unknown key {key!r:.60}; the keys are {', '.join((*VALUES, *SWITCHES))} and [paths.KIND]")
    values = value if isinstance(value, list) else [value]
    if any(isinstance(entry, bool) or not isinstance(entry, (str, int, float)) for entry in values):
        raise DataError(f"{path}: {key} must be text or a number, or a list of them, not {value!r:.60}")
    text = ",".join(str(entry) for entry in values)
    if text.startswith("-") or any(ord(character) < 32 for character in text):
        raise DataError(f"{path}: {key} = {text!r:.60} is no value of --{key}")
    return [f"--{key}", text]


def read_plan(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """A plan's flags, and the paths it gives for single kinds. Raises `DataError` naming file and key.

    A plan is a TOML of long flags without the dashes (`kinds = ["v100", "a4000"]`, `model = "vim_small"`, `quick = true`)
    and, where paths differ, tables `[paths.v100]` with `checkpoints` and `data`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"plan {path} is larger than any plan; it is not read")
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"plan {path} cannot be read: {error}") from error
    paths = value.pop("paths", {})
    entries = paths.values() if isinstance(paths, dict) else [None]
    if not all(isinstance(own, dict) and all(isinstance(text, str) for text in own.values()) for own in entries):
        raise DataError(f"{path}: paths must be tables [paths.KIND] of texts")
    for kind, own in paths.items():
        unknown = sorted(set(own) - set(PER_KIND))
        if unknown:
            raise DataError(f"{path}: [paths.{kind}] has unknown key {unknown[0]!r:.60}; the keys are {', '.join(PER_KIND)}")
    return [word for key, entry in value.items() for word in _word(path, key, entry)], paths
