"""Finding the devices of a plan, by name too, without touching a GPU in the parent process."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from rmeeto_bench.bench.run import devices
from rmeeto_bench.bench.run.devices import chosen_devices, discover
from rmeeto_bench.errors import UnavailableError, UsageError


def gpu(name: str, uuid: str, index: int) -> SimpleNamespace:
    return SimpleNamespace(id=f"cuda:{uuid}", name=name, kind="cuda", index=index, details=lambda: {"memory_gib": 79.2})


FOUND = [gpu("NVIDIA H100 PCIe", "a", 0), gpu("NVIDIA A100 80GB PCIe", "b", 1), gpu("NVIDIA A100 80GB PCIe", "c", 2)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("h100", ["cuda:a"]),
        ("A100", ["cuda:b", "cuda:c"]),
        ("a100-pcie-80", ["cuda:b", "cuda:c"]),
        ("A100,0", ["cuda:b", "cuda:c", "cuda:a"]),
        ("H100 PCIe, a100", ["cuda:a", "cuda:b", "cuda:c"]),
    ],
)
def test_gpus_are_chosen_by_name(spec: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda word: FOUND if word == "all" else [FOUND[int(word)]])
    assert [device.id for device in chosen_devices(spec)] == expected
    with pytest.raises(UnavailableError, match=r"no GPU v100: there is NVIDIA H100 PCIe"):
        chosen_devices("v100")


def test_simulated_devices_have_the_name_of_their_profile() -> None:
    records = discover("sim:v100,a4000")
    assert [(record.id, record.kind, record.profile) for record in records] == [
        ("sim:v100", "sim", "v100"),
        ("sim:a4000", "sim", "a4000"),
    ]
    assert len(discover("sim")) == 6


def test_gpus_are_looked_up_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    local = discover("none")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert discover("none") == local
    answers = {
        "all": '[{"id": "cuda:a", "name": "N", "kind": "cuda", "profile": null, "details": {}}]',
        "9": '{"kind": "UsageError", "message": "no"}',
        "8": "",
    }
    monkeypatch.setattr(subprocess, "run", lambda words, **_: SimpleNamespace(stdout=answers[words[-1]], stderr="a\nbroken"))
    assert [record.id for record in discover("all")] == ["cuda:a"]
    with pytest.raises(UsageError, match="no"):
        discover("9")
    with pytest.raises(UnavailableError, match=r"cannot be looked up \(broken\)"):
        discover("8")


def test_the_other_process_answers_in_json(capsys: pytest.CaptureFixture) -> None:
    devices.main("none")
    assert '"kind": "cpu"' in capsys.readouterr().out
    devices.main("sim:nothing")
    assert '"kind": "UsageError"' in capsys.readouterr().out
