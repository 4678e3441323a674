"""Parsers under fuzz: they return a value or raise our one-line error, never anything else, and never hang."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from sample_runs import cpu_run

from rmeeto_bench.bench.plan.ratios import parse_ratios, parse_rs
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.fleet.join.archive import pack, unpack
from rmeeto_bench.fleet.plan import read_plan
from rmeeto_bench.profiles import GpuProfile, load_profiles
from rmeeto_bench.records.run import from_json, to_json
from rmeeto_bench.records.run import save as save_record

FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOWER = settings(FAST, max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.sampled_from(["0", "0.14", "0.54", "1e-9", "5e-324", "nan", "inf", "-1", "1e999", "", " ", "...", "…", "0.5.5"])


def accepts_or_refuses(function, *arguments) -> object:
    try:
        return function(*arguments)
    except RmeetoError as error:
        message = str(error).strip()
    assert "\n" not in message
    return None


@FAST
@given(st.lists(NUMBERS | st.text("0123456789.,e-…", max_size=12), min_size=1, max_size=6))
def test_ratios(words: list[str]) -> None:
    found = accepts_or_refuses(parse_ratios, ",".join(words))
    if found is not None:
        assert all(0 <= ratio < 1 for ratio in found)
        assert len(set(found)) == len(found) < 10_000


@FAST
@given(st.text(max_size=30) | st.lists(st.integers(-(10**9), 10**9), max_size=5).map(lambda rs: ",".join(map(str, rs))))
def test_rs(text: str) -> None:
    found = accepts_or_refuses(parse_rs, text)
    if found is not None:
        assert all(isinstance(r, int) and 0 <= r <= 100_000 for r in found)


PATHS: list[tuple] = []


def _paths(value: object, path: tuple = ()) -> None:
    PATHS.append(path)
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _paths(entry, (*path, key))


_paths(json.loads(to_json(cpu_run())))


@FAST
@given(st.sampled_from(PATHS[1:]), JSON, st.booleans())
def test_manifests(path: tuple, value: object, remove: bool) -> None:
    record = json.loads(to_json(cpu_run()))
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    found = accepts_or_refuses(from_json, json.dumps(record))
    if found is not None:
        assert from_json(to_json(found)) == found  # what is accepted is whole: it survives being written


@FAST
@given(st.integers(0, 5000), st.binary(max_size=40))
def test_manifests_with_other_bytes(at: int, inserted: bytes) -> None:
    text = to_json(cpu_run()).encode()
    accepts_or_refuses(from_json, (text[:at] + inserted + text[at + len(inserted) :]).decode("utf-8", "replace"))


PROFILE = (Path(__file__).parents[2] / "profiles" / "v100.toml").read_text(encoding="utf-8")
LINES = PROFILE.splitlines()
VALUES = st.sampled_from(
    ["nan", "-inf", "-1", "1e308", "'x'", "[1]", "[1, 2, 3]", "true", "{}", "1979-05-27", "'(a*)*'", '"\\u0007"']
)


@SLOWER
@given(st.integers(0, len(LINES) - 1), VALUES | st.text(max_size=20))
def test_profiles(tmp_path: Path, line: int, value: str) -> None:
    changed = list(LINES)
    changed[line] = f"{changed[line].partition('=')[0]}= {value}"
    (tmp_path / "v100.toml").write_text("\n".join(changed), encoding="utf-8", errors="replace")
    load_profiles.cache_clear()
    try:
        found = accepts_or_refuses(load_profiles, tmp_path)
    finally:
        load_profiles.cache_clear()
    for profile in found or ():
        assert isinstance(profile, GpuProfile)
        profile.matches("Tesla V100-SXM2-16GB", 16.0)


KEYS = st.sampled_from(["kinds", "model", "quick", "seed", "out", "--out", "paths", "r", "batch-size"])


@SLOWER
@given(st.lists(st.tuples(KEYS, VALUES | st.text(max_size=10)), max_size=4), st.text(max_size=10))
def test_plans(tmp_path: Path, entries: list[tuple[str, str]], tail: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in entries) + "\n" + tail, encoding="utf-8", errors="replace")
    found = accepts_or_refuses(read_plan, path)
    if found is not None:
        words, _ = found
        flags = [word for word in words if word.startswith("-")]
        assert "--out" not in flags
        assert len(words) <= 2 * len(entries)


TENSOR = save({"a": torch.arange(4.0), "b": torch.zeros(2, 3, dtype=torch.float16)}, metadata={"rmeeto.r": "5"})
HEADER = json.loads(TENSOR[8 : 8 + struct.unpack("<Q", TENSOR[:8])[0]])


@SLOWER
@given(st.sampled_from(["a", "b", "__metadata__"]), st.sampled_from(["dtype", "shape", "data_offsets", "rmeeto.r"]), JSON)
def test_safetensors_headers(tmp_path: Path, name: str, field: str, value: object) -> None:
    header = json.loads(json.dumps(HEADER))
    header[name][field] = value
    text = json.dumps(header).encode()
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + TENSOR[-28:])
    found = accepts_or_refuses(read_checkpoint, path)
    if found is not None:
        assert set(found.state_dict) == {"a", "b"}


@SLOWER
@given(st.integers(0, len(TENSOR) - 1), st.binary(min_size=1, max_size=16))
def test_safetensors_bytes(tmp_path: Path, at: int, inserted: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(TENSOR[:at] + inserted + TENSOR[at + len(inserted) :])
    accepts_or_refuses(read_checkpoint, path)


@pytest.fixture(scope="module")
def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.arange(4.0)}, "epoch": 3}, buffer)
    return buffer.getvalue()


@SLOWER
@given(st.floats(0, 1), st.binary(min_size=1, max_size=16))
def test_torch_files(tmp_path: Path, torch_file: bytes, where: float, inserted: bytes) -> None:
    at = int(where * (len(torch_file) - 1))
    path = tmp_path / "c.pth"
    path.write_bytes(torch_file[:at] + inserted + torch_file[at + len(inserted) :])
    accepts_or_refuses(read_checkpoint, path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    save_record(cpu_run(), folder)
    return pack(folder)


@SLOWER
@given(st.floats(0, 1), st.binary(max_size=16), st.booleans())
def test_archives(tmp_path_factory: pytest.TempPathFactory, packed: bytes, where: float, inserted: bytes, cut: bool) -> None:
    folder = tmp_path_factory.mktemp("archive")
    at = int(where * len(packed))
    path = folder / "run.tar.gz"
    path.write_bytes(packed[:at] + inserted + (b"" if cut else packed[at + len(inserted) :]))
    accepts_or_refuses(unpack, path, folder / "out")
    assert {entry.name for entry in folder.iterdir()} <= {"run.tar.gz", "out"}
