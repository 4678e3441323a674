"""The peak GPU memory of an arm: what is counted, and that it reaches the record. The GPU itself is a stand-in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sample_runs import cpu_run

from rmeeto_bench.bench.session import workload
from rmeeto_bench.bench.store.store import Facts
from rmeeto_bench.records.run import from_json, to_json


def test_what_was_held_before_an_arm_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: calls.append("held") or 5 << 20)
    gpu = SimpleNamespace(kind="cuda", torch_device=torch.device("cpu"))
    assert workload._start_counting_memory(gpu) == 5 << 20  # type: ignore[arg-type]
    assert calls == ["reset", "held"]
    assert workload._start_counting_memory(SimpleNamespace(kind="cpu")) is None  # type: ignore[arg-type]


def test_it_is_kept_in_facts_and_records() -> None:
    facts = Facts("fp16", 128, "triton", peak_memory_mib=321.5)
    assert Facts.from_dict(facts.as_dict()) == facts
    run = cpu_run()
    run = replace(run, arms=(replace(run.arms[0], peak_memory_mib=321.5), *run.arms[1:]))
    assert from_json(to_json(run)).arms[0].peak_memory_mib == 321.5
