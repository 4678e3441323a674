"""What a stranger may hand us: each input ends in one line with an exit code, nothing in it runs, nothing outside is touched."""

# ruff: noqa: E501 (a line per input reads best)
from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_runs import cpu_run

from rmeeto_bench.bench.store.store import SCHEMA, VERSION
from rmeeto_bench.checkpoints.hub import resolve
from rmeeto_bench.checkpoints.reader import read_checkpoint
from rmeeto_bench.cli.main import main
from rmeeto_bench.data.find import find_data
from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.profiles import load_profiles
from rmeeto_bench.records.run import save, to_json

Attack = Callable[[Path], Any]  # prepares files in a folder; returns the words of a command, or a call to make
NANO = {"shape": (1, 28, 28), "num_classes": 10, "images": None}
IMAGENET = {"shape": (3, 224, 224), "num_classes": 2, "images": None}
MARKER = "executed"


class Payload:
    """Unpickling this would create a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def words(*given: str) -> Attack:
    return lambda folder: list(given)


# ---- manifests, drawn by `report`


def edited(change: Callable[[dict], object]) -> Attack:
    def prepare(folder: Path) -> list[str]:
        value = json.loads(to_json(cpu_run()))
        change(value)
        (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")
        return ["report", str(folder)]

    return prepare


def raw(content: bytes) -> Attack:
    def prepare(folder: Path) -> list[str]:
        (folder / "manifest.json").write_bytes(content)
        return ["report", str(folder)]

    return prepare


def arm(name: str, value: object) -> Attack:
    return edited(lambda record: record["arms"][0].__setitem__(name, value))


def top(name: str, value: object) -> Attack:
    return edited(lambda record: record.__setitem__(name, value))


def device(name: str, value: object) -> Attack:
    return edited(lambda record: record["devices"][0].__setitem__(name, value))


MANIFESTS = {
    "empty": (raw(b""), "not a rmeeto-bench manifest"),
    "binary": (raw(b"\xff\xfe\x00\x01"), "no text"),
    "a list": (raw(b"[1, 2]"), "not a rmeeto-bench manifest"),
    "null": (raw(b"null"), "not a rmeeto-bench manifest"),
    "nested too deep for a parser": (raw(b'{"schema": ' + b"[" * 100_000), "not a rmeeto-bench manifest"),
    "half a file": (raw(to_json(cpu_run()).encode()[:700]), "not a rmeeto-bench manifest"),
    "a later major version": (top("schema", "rmeeto-bench/2"), "upgrade"),
    "schema is a number": (top("schema", 1), "not a rmeeto-bench manifest"),
    "infinite rate": (arm("images_per_second", {"value": 1e999}), "not a number"),
    "NaN speed-up": (raw(to_json(cpu_run()).replace('"speedup": {', '"speedup": {"low": NaN, "x": {', 1).encode()), "manifest"),
    "a rate that is text": (arm("images_per_second", {"value": "fast"}), "must be a float"),
    "a rate that is a list": (arm("images_per_second", [1, 2]), "manifest"),
    "r is text": (arm("r", "11"), "must be a int"),
    "r is true": (arm("r", True), "must be a int"),
    "r is astronomical": (arm("r", 10**30), "out of range"),
    "token counts are text": (arm("token_counts", ["a"]), "must be a int"),
    "token counts are a number": (arm("token_counts", 5), "manifest"),
    "labels are objects": (arm("labels", [{}]), "must be a str"),
    "gflops are text": (arm("gflops", {"paper": "many"}), "must be a float"),
    "gflops are a list": (arm("gflops", []), "must be a dict"),
    "an escape sequence in a model's name": (arm("model", "\x1b]0;owned\x07"), "control characters"),
    "a bell in a verdict": (arm("verdict", "VALID\x07"), "control characters"),
    "an override of the reading direction": (device("name", "GPU \u202eevil"), "control characters"),
    "a device that is not listed": (arm("device", "cuda:other"), "no device"),
    "a device without a name": (edited(lambda record: record["devices"][0].pop("name")), "manifest"),
    "devices are text": (top("devices", "cpu"), "manifest"),
    "arms are a dictionary": (top("arms", {"a": 1}), "manifest"),
    "plan is a list": (top("plan", []), "must be a dict"),
    "a plan nested 500 deep": (top("plan", {"a": json.loads("[" * 500 + "]" * 500)}), "nested"),
    "an escape sequence in the plan": (top("plan", {"x": "\x1b[2J"}), "control characters"),
    "a huge text": (top("status", "x" * 200_000), "characters long"),
    "argv is a number": (top("argv", 3), "manifest"),
    "merged runs that are no list": (top("plan", {"merged_from": "x"}), None),
}  # fmt: skip


# ---- databases and archives, read by `merge`


def database(script: str | bytes, *, version: int = VERSION) -> Attack:
    def prepare(folder: Path) -> list[str]:
        save(cpu_run(), folder)
        path = folder / "run.sqlite"
        if isinstance(script, bytes):
            path.write_bytes(script)
        else:
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(script)
                connection.execute(f"PRAGMA user_version={version}")
        return ["merge", str(folder), "--out", str(folder / "out")]

    return prepare


def _page_damaged() -> Attack:
    def prepare(folder: Path) -> list[str]:
        made = database(SCHEMA)(folder)
        path = folder / "run.sqlite"
        content = bytearray(path.read_bytes())
        content[4096:4196] = np.random.default_rng(0).bytes(100)  # the head of the second page
        path.write_bytes(bytes(content))
        return made

    return prepare


DATABASES = {
    "no database": (database(b"not a database at all, but long enough to be one" * 30), "no rmeeto-bench run"),
    "an empty database of a later layout": (database(SCHEMA, version=99), "upgrade"),
    "layout zero": (database("CREATE TABLE x(y)", version=0), "layout 0"),
    "a foreign table": (database(SCHEMA + "CREATE TABLE evil(x);"), "tampered"),
    "a trigger": (database(SCHEMA + "CREATE TRIGGER t AFTER INSERT ON block BEGIN DELETE FROM prediction; END;"), "tampered"),
    "a view in a table's place": (
        database(SCHEMA.replace("CREATE TABLE block", "CREATE TABLE block0") + "CREATE VIEW block AS SELECT 1 AS device;"), "tampered"
    ),
    "a column too many": (database(SCHEMA.replace("telemetry TEXT,", "telemetry TEXT, extra TEXT,")), "tampered"),
    "a column too few": (database(SCHEMA.replace("wall_seconds REAL,", "")), "tampered"),
    "a virtual table": (database(SCHEMA + "CREATE VIRTUAL TABLE f USING fts5(a);"), "tampered"),
    "an index of its own": (database(SCHEMA + "CREATE INDEX i ON block(seconds);"), "tampered"),
    "a computed column": (database(SCHEMA + "ALTER TABLE block ADD COLUMN made REAL AS (seconds * 2);"), "tampered"),
    "a table too few": (database(SCHEMA + "DROP TABLE probe;"), "lacks the"),
    "damaged pages": (_page_damaged(), "run.sqlite"),
    "a session that is text": (
        database(SCHEMA + "INSERT INTO block(device,session,round,arm) VALUES('cpu','x',0,'vim_nano/r0');"), "table block, column session, row 1 holds text"
    ),
}  # fmt: skip


def archive(*members: tuple[str, bytes | str], name: str = "run.tar.gz") -> Attack:
    """Members are (path, content), or (path, link target as text)."""

    def prepare(folder: Path) -> list[str]:
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as file:
            for path, content in members:
                member = tarfile.TarInfo(path)
                if isinstance(content, str):
                    member.type, member.linkname = tarfile.SYMTYPE, content
                    file.addfile(member)
                else:
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
        return ["merge", str(folder / name), "--out", str(folder / "out")]

    return prepare


def packed(content: bytes) -> Attack:
    def prepare(folder: Path) -> list[str]:
        (folder / "run.tar.gz").write_bytes(content)
        return ["merge", str(folder / "run.tar.gz"), "--out", str(folder / "out")]

    return prepare


def _lying_tar() -> Attack:
    """A header that announces 8 GiB where there is nothing."""

    def prepare(folder: Path) -> list[str]:
        member = tarfile.TarInfo("run/manifest.json")
        member.size = 8 << 30
        (folder / "run.tar").write_bytes(member.tobuf() + b"\0" * 1024)
        return ["merge", str(folder / "run.tar"), "--out", str(folder / "out")]

    return prepare


def _bomb_tar() -> Attack:
    """65 MiB of zeros for a manifest, in some 70 kB."""

    def prepare(folder: Path) -> list[str]:
        made = archive(("run/manifest.json", b"0" * (65 << 20)))(folder)
        assert (folder / "run.tar.gz").stat().st_size < 1 << 20
        return made

    return prepare


def shown(attack: Attack) -> Attack:
    """The same archive, given to a command that shows it."""
    return lambda folder: ["show", *attack(folder)[1:2]]  # type: ignore[index]


GOOD = to_json(cpu_run()).encode()
ARCHIVES = {
    "no archive": (packed(b"plain text"), "give one that contribute wrote"),
    "an empty file": (packed(b""), "no tar file"),
    "half an archive": (packed(gzip.compress(np.random.default_rng(0).bytes(9000))[:5000]), "no tar file"),
    "an archive without a run": (archive(("readme.txt", b"hello")), "holds no manifest.json"),
    "a path that climbs out": (archive(("../../manifest.json", b"{}")), "not a rmeeto-bench manifest"),
    "an absolute path": (archive(("/etc/cron.d/manifest.json", b"{}")), "not a rmeeto-bench manifest"),
    "a symbolic link for a manifest": (archive(("run/manifest.json", "/etc/passwd")), "link"),
    "a symbolic link for a database": (archive(("run/manifest.json", GOOD), ("run/run.sqlite", "/etc/passwd")), "link"),
    "two manifests": (archive(("run/manifest.json", GOOD), ("run/manifest.json", GOOD)), "several runs"),
    "two runs": (archive(("a/manifest.json", GOOD), ("b/run.sqlite", b"x")), "several runs"),
    "a thousand files": (archive(*((f"f{i}", b"") for i in range(1100))), "more than a run"),
    "a size that is a lie": (_lying_tar(), ""),
    "a bomb": (_bomb_tar(), "larger than any run"),
}
ARCHIVES |= {f"{name}, shown": (shown(attack), says) for name, (attack, says) in ARCHIVES.items()}


# ---- plans and profiles


def plan(text: str, *extra: str) -> Attack:
    def prepare(folder: Path) -> list[str]:
        (folder / "plan.toml").write_text(text, encoding="utf-8")
        return ["fleet", str(folder / "plan.toml"), "--engine", "local", "--out", str(folder / "out"), *extra]

    return prepare


PLANS = {
    "no TOML": (plan("= = ="), "cannot be read"),
    "no kinds": (plan("quick = true"), "--kinds"),
    "an unknown key": (plan("kinds = 'v100'\nshell = 'rm -rf /'"), "unknown key 'shell'"),
    "the output folder": (plan("kinds = 'v100'\nout = '/etc'"), "unknown key 'out'"),
    "a flag within a key": (plan("'model --out' = 'x'"), "unknown key"),
    "a flag for a value": (plan("kinds = 'v100'\nmodel = '--out=/etc'"), "no value of --model"),
    "a line break in a value": (plan("kinds = 'v100'\nmodel = \"a\\nb\""), "no value of --model"),
    "a table for a value": (plan("kinds = 'v100'\nmodel = {a = 1}"), "must be text or a number"),
    "a date for a value": (plan("seed = 1979-05-27"), "must be text or a number"),
    "a switch that is text": (plan("quick = 'yes'"), "true or false"),
    "a number that is none": (plan("kinds = 'v100'\nseed = 'one'"), "plan.toml"),
    "two presets": (plan("kinds = 'v100'\nquick = true\nrigorous = true"), "plan.toml"),
    "a kind that does not exist": (plan("kinds = ['v100', 'b900']"), "no profile 'b900'"),
    "a kind with a path": (plan("kinds = '../../etc/passwd'"), "no profile"),
    "paths that are text": (plan("kinds = 'v100'\npaths = 'x'"), "paths must be tables"),
    "paths of another key": (plan("kinds = 'v100'\n[paths.v100]\nout = '/etc'"), "unknown key 'out'"),
    "a model that does not exist": (plan("kinds = 'v100'\ndevice = 'sim'\nmodel = 'vim_huge'"), "unknown model"),
    "a simulated processor": (plan("kinds = 'cpu'\ndevice = 'sim'\nmodel = 'vim_nano'"), "leave cpu out"),
    "a plan of two megabytes": (plan("#" * (2 << 20)), "larger than any plan"),
}

PROFILE = (Path(__file__).parents[2] / "profiles" / "v100.toml").read_text(encoding="utf-8")


def profile(old: str, new: str) -> Attack:
    def prepare(folder: Path) -> Callable[[], object]:
        assert old in PROFILE
        (folder / "v100.toml").write_text(PROFILE.replace(old, new, 1), encoding="utf-8")
        return lambda: load_profiles(folder)

    return prepare


PROFILES = {
    "no TOML": (profile("name = ", "name = = "), "cannot be read"),
    "an unknown key": (profile("name = ", "run = 'id'\nname = "), "unknown key 'run'"),
    "a key too few": (profile("source = ", "# "), "missing"),
    "another file's name": (profile('name = "v100"', 'name = "a100"'), "must be 'v100'"),
    "a name with a path": (profile('name = "v100"', 'name = "../v100"'), "must be 'v100'"),
    "an escape sequence": (profile('ray = "V100"', 'ray = "\\u001b[2J"'), "control characters"),
    "an infinite rate": (profile("bandwidth_gbs = ", "bandwidth_gbs = inf #"), "not a number"),
    "a rate that is no number": (profile("bandwidth_gbs = ", "bandwidth_gbs = nan #"), "not a number"),
    "a negative power": (profile("power_w = ", "power_w = -"), "no rate or size"),
    "text for a number": (profile("power_w = ", "power_w = '300' #"), "must be a int"),
    "memory from text": (profile("memory_gib = [", "memory_gib = ['a', "), "v100.toml"),
    "memory backwards": (profile("memory_gib = [", "memory_gib = [99, 1] #"), "no range"),
    "a pattern that never ends": (profile("pattern = ", "pattern = '(a+)+$' #"), "may never end"),
    "a pattern that is none": (profile("pattern = ", "pattern = '(' #"), "v100.toml"),
    "a pattern of a thousand letters": (profile("pattern = ", f"pattern = '{'a' * 1000}' #"), "over 200 long"),
    "a list for a text": (profile("display = ", "display = ['x'] #"), "must be a str"),
    "a key twice": (profile("power_w = ", "power_w = 1\npower_w = "), "cannot be read"),
}  # fmt: skip


# ---- checkpoints


def checkpoint(name: str, content: Callable[[Path], bytes]) -> Attack:
    def prepare(folder: Path) -> Callable[[], object]:
        (folder / name).write_bytes(content(folder))
        return lambda: read_checkpoint(folder / name)

    return prepare


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def header(text: bytes, data: bytes = b"", *, length: int | None = None) -> Callable[[Path], bytes]:
    return lambda folder: struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
CHECKPOINTS = {
    "a bare pickle that runs code": (checkpoint("c.pth", lambda f: pickle.dumps(Payload(f / MARKER))), "c.pth"),
    "a pickle in a torch file": (checkpoint("c.pth", lambda f: saved({"model": Payload(f / MARKER)})), "carries code"),
    "a pickle in a legacy file": (
        checkpoint("c.pt", lambda f: saved({"model": Payload(f / MARKER)}, _use_new_zipfile_serialization=False)), "c.pt"
    ),
    "a pickle named safetensors": (checkpoint("c.safetensors", lambda f: pickle.dumps(Payload(f / MARKER))), "damaged"),
    "a function by name": (checkpoint("c.pth", lambda f: b"cposix\nsystem\n(S'touch executed'\ntR."), "c.pth"),
    "eval by name": (checkpoint("c.pth", lambda f: b"c__builtin__\neval\n(S'1+1'\ntR."), "c.pth"),
    "nothing": (checkpoint("c.pth", lambda f: b""), "empty"),
    "zeros": (checkpoint("c.pth", lambda f: bytes(1000)), "damaged"),
    "noise": (checkpoint("c.pth", lambda f: np.random.default_rng(0).bytes(5000)), "damaged"),
    "a web page": (checkpoint("c.pth", lambda f: b"<!DOCTYPE html>"), "web page"),
    "a large-file pointer": (checkpoint("c.pth", lambda f: b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs"),
    "a compressed zip": (checkpoint("c.pth", lambda f: zipped({"a/data.pkl": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)), "compressed"),
    "a zip without a pickle": (checkpoint("c.pth", lambda f: zipped({"a/readme": b"x"}, zipfile.ZIP_STORED)), "damaged"),
    "a zip that climbs out": (checkpoint("c.pth", lambda f: zipped({"../../data.pkl": b"N."}, zipfile.ZIP_STORED)), "c.pth"),
    "a torch script": (checkpoint("c.pth", lambda f: zipped({"a/data.pkl": b"\x80\x02N.", "a/constants.pkl": b"\x80\x02N.", "a/version": b"3"}, zipfile.ZIP_STORED)), "c.pth"),
    "a truncated torch file": (checkpoint("c.pth", lambda f: saved({"a": torch.zeros(999)})[:900]), "damaged"),
    "a number": (checkpoint("c.pth", lambda f: saved(3)), "not a dictionary"),
    "a list": (checkpoint("c.pth", lambda f: saved([torch.zeros(2)])), "not a dictionary"),
    "no tensors": (checkpoint("c.pth", lambda f: saved({"epoch": 1})), "no tensors"),
    "infinite weights": (checkpoint("c.pth", lambda f: saved({"a": torch.tensor([float("inf")])})), "NaN or infinity"),
    "a header longer than the file": (checkpoint("c.safetensors", header(b"{}", length=1 << 40)), "damaged"),
    "a header of no length": (checkpoint("c.safetensors", header(b"")), "damaged"),
    "the largest number for a length": (checkpoint("c.safetensors", header(b"{}", length=2**64 - 1)), "damaged"),
    "a header that is no JSON": (checkpoint("c.safetensors", header(b"{nope")), "damaged"),
    "a header that is no text": (checkpoint("c.safetensors", header(b"\xff\xfe")), "damaged"),
    "a header that is a list": (checkpoint("c.safetensors", header(b"[]")), "damaged"),
    "a header nested deep": (checkpoint("c.safetensors", header(b'{"a":' * 5000)), "damaged"),
    "tensors that overlap": (checkpoint("c.safetensors", header(tensors(a=F32, b=F32), bytes(8))), "damaged"),
    "a tensor beyond the end": (checkpoint("c.safetensors", header(tensors(a={**F32, "data_offsets": [0, 800]}), bytes(8))), "damaged"),
    "offsets backwards": (checkpoint("c.safetensors", header(tensors(a={**F32, "data_offsets": [8, 0]}), bytes(8))), "damaged"),
    "a shape larger than its bytes": (checkpoint("c.safetensors", header(tensors(a={**F32, "shape": [2**40]}), bytes(8))), "damaged"),
    "a shape that overflows": (checkpoint("c.safetensors", header(tensors(a={**F32, "shape": [2**62, 4]}), bytes(8))), "damaged"),
    "a negative shape": (checkpoint("c.safetensors", header(tensors(a={**F32, "shape": [-2]}), bytes(8))), "damaged"),
    "an unknown type": (checkpoint("c.safetensors", header(tensors(a={**F32, "dtype": "F7"}), bytes(8))), "damaged"),
    "a gap between tensors": (checkpoint("c.safetensors", header(tensors(a={**F32, "data_offsets": [4, 12]}), bytes(12))), "damaged"),
    "metadata that is no text": (checkpoint("c.safetensors", header(tensors(__metadata__={"r": 1}, a=F32), bytes(8))), "damaged"),
    "not a single tensor": (checkpoint("c.safetensors", header(b"{}")), "no tensors"),
}  # fmt: skip


# ---- data sets and names


def idx(images: bytes, labels: bytes) -> Attack:
    def prepare(folder: Path) -> Callable[[], object]:
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / "t10k-labels-idx1-ubyte").write_bytes(labels)
        return lambda: find_data(folder, **NANO)

    return prepare


def _idx3(count: int, height: int = 28, width: int = 28, data: bytes | None = None) -> bytes:
    content = bytes(count * height * width) if data is None else data
    return bytes([0, 0, 8, 3]) + struct.pack(">III", count, height, width) + content


def _idx1(values: bytes) -> bytes:
    return bytes([0, 0, 8, 1]) + struct.pack(">I", len(values)) + values


def _png(width: int, height: int) -> bytes:
    """The header of a picture of any size, and no picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def picture(content: bytes, name: str = "x.png") -> Attack:
    def prepare(folder: Path) -> Callable[[], object]:
        for label in ("n01440764", "n01443537"):
            (folder / label).mkdir()
            (folder / label / name).write_bytes(content)

        def read() -> None:
            data = find_data(folder, **IMAGENET)
            list(data.batches(4))

        return read

    return prepare


def call(function: Callable[[], object]) -> Attack:
    return lambda folder: function


DATA = {
    "images that announce 4 TiB": (idx(_idx3(2**31, 2**10, 2**10, b""), _idx1(b"\0")), "announces"),
    "a bomb behind one image": (idx(_idx3(1) + bytes(200 << 20), _idx1(b"\0")), "more than its shape"),
    "images of another kind": (idx(b"\0\0\x0d\x03" + bytes(20), _idx1(b"\0")), "no IDX file"),
    "images cut short": (idx(_idx3(3, data=bytes(100)), _idx1(b"\0\0\0")), "cut short"),
    "more labels than images": (idx(_idx3(1), _idx1(b"\0\0")), "1 images but 2 labels"),
    "a label that no class has": (idx(_idx3(1), _idx1(b"\xff")), "label 255"),
    "labels without a header": (idx(_idx3(1), b"\0"), "no IDX file"),
    "a picture that announces 100 gigapixels": (picture(_png(400_000, 250_000)), "x.png"),
    "a picture without a picture": (picture(_png(64, 64)[:40]), "x.png"),
    "a picture that is text": (picture(b"hello"), "x.png"),
    "a repository name with a path": (call(lambda: resolve("../../etc:passwd")), "there is no file"),
    "a repository name with a shell": (call(lambda: resolve("a/$(id):x")), "no name of a hub repository"),
    "a name with a null byte": (call(lambda: resolve("a\0b")), "there is no file"),
}

# ---- the command line
LINE = {
    "ratios without end": (words("--gpus", "none", "--ratios", "0,1e-9,...,0.9"), "more than 1000 ratios"),
    "a step too small for a number": (words("--gpus", "none", "--ratios", "0,5e-324,...,0.9"), "more than 1000 ratios"),
    "a ratio that is no number": (words("--gpus", "none", "--ratios", "0,nan"), "lies in [0, 1)"),
    "an infinite ratio": (words("--gpus", "none", "--ratios", "0,inf"), "lies in [0, 1)"),
    "a negative ratio": (words("--gpus", "none", "--ratios", "0,-0.5"), "lies in [0, 1)"),
    "a ratio of a megabyte": (words("--gpus", "none", "--ratios", "9" * 1_000_000), "lies in [0, 1)"),
    "dots alone": (words("--gpus", "none", "--ratios", "..."), "number on both sides"),
    "dots twice": (words("--gpus", "none", "--ratios", "0,...,...,0.5"), "no number"),
    "no ratio between commas": (words("--gpus", "none", "--ratios", "0,,0.5"), "no number"),
    "an r of five thousand digits": (words("--gpus", "none", "--r", "9" * 5000), "whole numbers"),
    "an r beyond every model": (words("--gpus", "none", "--r", "999999999999"), "at most"),
    "an r with a fraction": (words("--gpus", "none", "--r", "1.5"), "whole numbers"),
    "a model with a path": (words("--gpus", "none", "--model", "../../etc/passwd"), "unknown model"),
    "a model with an escape sequence": (words("--gpus", "none", "--model", "\x1b[2J"), "unknown model"),
    "a model with a shell": (words("--gpus", "none", "--model", "$(id)"), "unknown model"),
    "a run that is a device": (words("report", "/dev/null"), "manifest"),
    "a command with a path": (words("../evil"), "unknown command"),
    "fewer tries than one": (
        words("fleet", "--engine", "local", "--kinds", "cpu", "--model", "vim_nano", "--tries", "0", "--out", "o"), "--tries"
    ),
}  # fmt: skip

GROUPS = {
    "manifest": MANIFESTS,
    "database": DATABASES,
    "archive": ARCHIVES,
    "plan": PLANS,
    "profile": PROFILES,
    "checkpoint": CHECKPOINTS,
    "data": DATA,
    "command line": LINE,
}
CASES = [
    pytest.param(attack, says, id=f"{group}: {name}")
    for group, attacks in GROUPS.items()
    for name, (attack, says) in attacks.items()
    if says is not None
]


def test_there_are_more_than_a_hundred_of_them() -> None:
    assert len(CASES) >= 100
    assert len({case.id for case in CASES}) == len(CASES)


def outcome(attack: Attack, folder: Path, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and message, as the command line gives them."""
    made = attack(folder)
    if isinstance(made, list):
        try:
            code = main(made)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        lines = [line for line in captured.err.splitlines() if line.startswith("rmeeto-bench")]
        return code, lines[-1] if lines else captured.err
    try:
        made()
    except RmeetoError as error:
        return error.exit_code, f"rmeeto-bench: {error}"
    return 0, "accepted"


@pytest.mark.parametrize(("attack", "says"), CASES)
def test_a_hostile_input_is_one_line_and_exit_code_2(
    attack: Attack, says: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, line = outcome(attack, folder, capsys)
    assert code == 2, line
    assert says in line
    assert "\n" not in line.strip()
    assert "\x1b" not in line
    assert len(line) < 2000
    assert not (folder / MARKER).exists(), "code in the input was run"
    assert not (folder / "out" / "manifest.json").exists(), "a result was written"
    assert [path.name for path in tmp_path.iterdir()] == ["inside"], "something was written outside"


def test_names_in_a_run_are_text_and_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record = cpu_run()
    evil = "[red]CPU[/] [link=x]"
    save(replace(record, devices=(replace(record.devices[0], name=evil + "<script>alert(1)</script>"),)), tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert "[red]CPU[/]" in capsys.readouterr().out
    assert "<script>alert" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_foreign_database_is_left_as_it_is(tmp_path: Path) -> None:
    attack, _ = DATABASES["a trigger"]
    made = attack(tmp_path)
    before = (tmp_path / "run.sqlite").read_bytes()
    assert main(made) == 2
    assert (tmp_path / "run.sqlite").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "run.sqlite"]
