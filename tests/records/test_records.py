"""Records, profiles and the paper's numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sample_runs import cpu_run

from rmeeto_bench import files
from rmeeto_bench import published as reference
from rmeeto_bench.errors import DataError
from rmeeto_bench.profiles import load_profiles, match_profile
from rmeeto_bench.records.run import from_json, load, save, to_json


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    record = cpu_run()
    save(record, tmp_path)
    assert load(tmp_path) == load(tmp_path / "manifest.json") == record
    assert from_json(to_json(record)) == record


def test_a_missing_run_and_an_unknown_device_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder of a run"):
        load(tmp_path)
    with pytest.raises(DataError, match="no device"):
        cpu_run().device("cuda:9")


def test_values_that_json_cannot_hold_are_refused() -> None:
    record = cpu_run()
    with pytest.raises(ValueError, match="JSON"):
        to_json(replace(record, plan={"x": float("nan")}))


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


NAMES = [
    ("NVIDIA GeForce RTX 3090", 23.7, "rtx3090"),
    ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090"),
    ("Tesla V100-SXM2-16GB", 15.8, "v100"),
    ("Tesla V100-PCIE-32GB", 31.7, "v100"),
    ("NVIDIA RTX A4000", 15.7, "a4000"),
    ("NVIDIA A100-PCIE-40GB", 39.4, "a100-pcie-40"),
    ("NVIDIA A100-SXM4-40GB", 39.4, "a100-sxm-40"),
    ("NVIDIA A100 80GB PCIe", 79.2, "a100-pcie-80"),
    ("NVIDIA A100-SXM4-80GB", 79.2, "a100-sxm-80"),
    ("NVIDIA H100 80GB HBM3", 79.1, "h100-sxm"),
    ("NVIDIA H100 PCIe", 79.2, "h100-pcie"),
    ("NVIDIA H200", 139.8, "h200"),
]


@pytest.mark.parametrize(("device", "memory", "profile"), NAMES)
def test_devices_are_known_by_the_names_their_driver_gives(device: str, memory: float, profile: str) -> None:
    found = match_profile(device, memory)
    assert found.name == profile


@pytest.mark.parametrize("device", ["NVIDIA GeForce RTX 3090 Ti", "NVIDIA RTX 4000 Ada", "NVIDIA GH200 480GB", "NVIDIA L4", ""])
def test_other_devices_are_not_mistaken_for_them(device: str) -> None:
    assert match_profile(device, 24.0) is None


def test_every_profile_is_plausible_and_names_its_source() -> None:
    gpus = [profile for profile in load_profiles() if profile.name != "cpu"]
    assert {p.paper_column for p in gpus} == {"RTX 3090", "RTX 4090", "V100", "A4000", "A100", "H100", ""}
    for profile in gpus:
        assert profile.fp16_tflops > profile.fp32_tflops > 10
        assert profile.bandwidth_gbs > 400
        assert 4 <= profile.l2_mb <= 126
        assert profile.source


def test_the_papers_numbers_are_found_by_key() -> None:
    assert reference.throughput("vim_small", "RTX 4090", 20) == {"images_per_second": 2183.0, "speedup": 1.49}
    assert reference.throughput("vim_small", "RTX 4090", 13) is None
    assert reference.throughput("vim_nano", "RTX 4090", 5) is None
    assert reference.top1("vim_small", 0) == 80.5
    assert len(reference.rows()) == 620


def test_an_earlier_manifest_and_a_later_minor_one_load() -> None:
    value = json.loads(to_json(cpu_run()))
    for name in ("sweep", "failures", "resumed_utc", "parent_run"):
        del value[name]
    for arm in value["arms"]:
        for name in ("latency_ms", "paper_mode", "noise_speed"):
            del arm[name]
    old = from_json(json.dumps(value | {"schema": "rmeeto-bench/1"}))
    assert replace(old, schema=cpu_run().schema) == cpu_run()
    later = json.loads(to_json(cpu_run())) | {"schema": "rmeeto-bench/1.99", "colour": "red"}
    later["arms"][0]["smell"] = 1
    assert from_json(json.dumps(later)).arms == cpu_run().arms
