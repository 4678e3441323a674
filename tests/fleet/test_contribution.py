"""Runs that are given away: no names of the machine, and every number follows from the raw data."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sample_runs

from rmeeto_bench.api import run
from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.summary.record import assemble
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.archive import pack
from rmeeto_bench.fleet.join.contribution import contribute, opened, without_names
from rmeeto_bench.records.run import DATABASE, MANIFEST, DeviceRecord, RunRecord, load, save

GPU = DeviceRecord("cuda:x", "Some GPU", "cuda")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves behind, of a device that passes for a real one."""
    folder = tmp_path_factory.mktemp("contribution") / "run"
    plan = BenchPlan(models=("vim_tiny",), rs=(0, 11), gpus="sim:v100", preset="quick")
    run(plan, folder)
    record = load(folder)
    real = replace(record, devices=tuple(replace(device, kind="cuda") for device in record.devices))
    with Store.open(folder) as store:
        save(assemble(real, plan, store, {}, {}), folder)
    return folder


def packed(measured: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The run with its manifest changed, packed as a stranger could."""
    forged = tmp_path / "forged"
    forged.mkdir()
    manifest = json.loads((measured / MANIFEST).read_text())
    change(manifest)
    (forged / MANIFEST).write_text(json.dumps(manifest))
    (forged / DATABASE).write_bytes((measured / DATABASE).read_bytes())
    archive = tmp_path / "forged.tar.gz"
    archive.write_bytes(pack(forged))
    return archive


def test_what_is_packed_is_the_run(measured: Path, tmp_path: Path) -> None:
    given = contribute(measured, tmp_path / "given.tar.gz", keep_names=True)
    assert given == load(measured)
    with opened(tmp_path / "given.tar.gz") as (_, record):
        assert record == given


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: m["arms"][1]["images_per_second"].update(value=m["arms"][1]["images_per_second"]["high"]),
            "images_per_second of vim",
        ),
        (
            lambda m: m["arms"][1]["speedup"].update(low=m["arms"][1]["speedup"]["value"]),
            "speedup of vim",
        ),
        (lambda m: m["arms"][1].update(latency_ms={"p50": 1.0, "steps": 900.0}), "latency_ms of vim_tiny/r11 does not follow"),
        (lambda m: m["arms"][0].update(labels=[]), "labels of vim_tiny/r0 does not follow"),
        (lambda m: m["arms"][1].update(verdict="VALID"), "does not follow"),
        (lambda m: m["arms"][1].update(top1={"value": 90.0, "low": 80.0, "high": 95.0}), "does not follow"),
        (lambda m: m["arms"].pop(), "is not in its manifest"),
        (lambda m: m.update(status="interrupted"), "is interrupted; finish it with resume"),
        (lambda m: m["devices"][0].update(kind="sim"), "was simulated"),
        (lambda m: m.update(plan={"merged_from": []}), "was merged from others"),
    ],
)
def test_a_forged_manifest_is_refused(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    archive = packed(measured, tmp_path, change)
    assert main(["contribute", "--check", str(archive)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_run_without_its_raw_data_is_refused(measured: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes((measured / MANIFEST).read_bytes())
    archive = tmp_path / "bare.tar.gz"
    archive.write_bytes(pack(tmp_path))
    with pytest.raises(DataError, match="holds no run.sqlite"), opened(archive):
        pass


def test_a_damaged_database_is_told_by_the_name_of_its_archive(measured: Path, tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes((measured / DATABASE).read_bytes()[:5000])
    archive = tmp_path / "damaged.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(measured / MANIFEST, f"run/{MANIFEST}")
        tar.add(tmp_path / DATABASE, f"run/{DATABASE}")
    with pytest.raises(DataError, match="damaged.tar.gz/run.sqlite is no rmeeto-bench run"), opened(archive):
        pass


def test_nothing_is_overwritten(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "given.tar.gz").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        contribute(measured, tmp_path / "given.tar.gz", keep_names=False)
    assert (tmp_path / "given.tar.gz").read_text() == "mine"


def named(**changes: Any) -> RunRecord:
    record = sample_runs.record((GPU,), sample_runs.arms(GPU.id, "vim_small", {0: 100.0}))
    return replace(record, environment={"host": "lab-7"}, **changes)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/ada/imagenet/val", "val"),
        ("~/data", "data"),
        (r"C:\Users\Ada\runs", "runs"),
        ("cannot read '/srv/x y/a.png' on lab-7", "cannot read 'a.png' on machine-642cbd8a"),
        ("/srv/my data/val", "val"),
        ("lab-70 is another machine", "lab-70 is another machine"),
        ("vim_small/r0 at 3 images/s", "vim_small/r0 at 3 images/s"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_hosts_and_folders_are_replaced_wherever_they_stand(before: str, after: str) -> None:
    cleaned = without_names(named(failures=(before,), data={"vim_small": {"note": before}}))
    assert (cleaned.failures, cleaned.data["vim_small"]["note"]) == ((after,), after)
    assert without_names(cleaned) == cleaned


def test_relative_folders_of_the_command_line_go_too() -> None:
    words = ("run", "--data", "../ada/val", "--out=runs/secret/x", "--baseline", "vim_small/r0")
    assert without_names(named(argv=words)).argv == ("run", "--data", "val", "--out=x", "--baseline", "vim_small/r0")
