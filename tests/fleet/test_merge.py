"""Runs of machines that never met become one: every cell once, contradictions named, provenance kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_runs import arms, record, store_answers

from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.archive import pack
from rmeeto_bench.fleet.join.gather import gather
from rmeeto_bench.fleet.join.merge import merge
from rmeeto_bench.fleet.join.parts import sources_of
from rmeeto_bench.records.cell import CellKey, cell_key
from rmeeto_bench.records.run import MERGED_FROM, Block, DeviceRecord, Estimate, RunRecord, load, save

RATES = {0: 100.0, 11: 120.0}


def a_run(run_id: str, device: str = "cuda:a", host: str = "alpha", **changes: object) -> RunRecord:
    model = str(changes.pop("model", "vim_small"))
    rates = changes.pop("rates", RATES)
    name = "Some CPU" if device == "cpu" else "NVIDIA H200"
    described = DeviceRecord(device, name, device.partition(":")[0], None if device == "cpu" else "h200")
    made = record((described,), arms(device, model, rates))  # type: ignore[arg-type]
    environment = {"host": host, "git_commit": "abc"}
    return replace(made, run_id=run_id, environment=environment, **changes)  # type: ignore[arg-type]


def joined(*runs: RunRecord, prefer: str | None = None):
    return merge([(Path(run.run_id), run) for run in runs], prefer=prefer)


def cells(run: RunRecord) -> list[tuple[str, str]]:
    return [(arm.device, arm.arm) for arm in run.arms]


def test_two_machines_with_a_cpu_each_stay_apart() -> None:
    merged = joined(a_run("a", "cpu", "alpha"), a_run("b", "cpu", "beta")).record
    assert cells(merged) == [(f"cpu@{host}", f"vim_small/r{r}") for host in ("alpha", "beta") for r in RATES]
    assert [device.id for device in merged.devices] == ["cpu@alpha", "cpu@beta"]


def test_models_of_one_device_measured_in_two_runs_share_it() -> None:
    merged = joined(a_run("a"), a_run("b", model="vim_tiny")).record
    assert len(merged.devices) == 1
    assert {arm.model for arm in merged.arms} == {"vim_small", "vim_tiny"}
    assert set(merged.data) == {"vim_small", "vim_tiny"}


def test_the_same_run_twice_is_one_run_and_said() -> None:
    run = a_run("a")
    merged = joined(run, run)
    assert cells(merged.record) == cells(joined(run).record)
    assert all("given twice" in note for note in merged.notes)
    assert len(merged.notes) == 2


def test_an_earlier_copy_of_a_run_adds_nothing() -> None:
    whole = a_run("a")
    early = replace(whole, status="running", arms=(replace(whole.arms[0], rounds=6),))
    for order in permutations((whole, early)):
        merged = joined(*order)
        assert [arm.rounds for arm in merged.record.arms] == [48, 48]
        assert "two copies of a differ" in merged.notes[0]
        assert merged.record.status == "complete"


@pytest.mark.parametrize(
    ("better", "why"),
    [
        ({"rounds": 80}, "the one with more rounds is kept"),
        ({"n_images": 60_000}, "the one with more images is kept"),
        ({"status": "complete"}, "the one of the complete run is kept"),
        ({"created_utc": "2099-01-01T00:00:00Z"}, "the newer one is kept"),
    ],
)
def test_of_two_measurements_the_better_is_kept_and_the_reason_is_true(better: dict[str, object], why: str) -> None:
    first = a_run("a", status="interrupted")
    second = replace(first, run_id="b", **{name: value for name, value in better.items() if hasattr(first, name)})
    of_arms = {name: value for name, value in better.items() if not hasattr(first, name)}
    merged = joined(first, replace(second, arms=tuple(replace(arm, **of_arms) for arm in first.arms)))
    assert [source.run_id for source in sources_of(merged.record)] == ["b"]
    told = [note for note in merged.notes if "measured in b and in a" in note]
    assert len(told) == len(RATES)
    assert all(note.endswith(why) for note in told)
    assert "nothing is taken from a: others have all its arms" in merged.notes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"precision": "bf16"}, "precision bf16 / fp16"),
        ({"backend": "mamba_ssm"}, "backend mamba_ssm / chunked"),
        ({"batch_size": 64}, "batch size 64 / 128"),
        ({"checkpoint_sha256": "1" * 64}, "checkpoint 1111"),
        ({"images_per_second": Estimate(140.0, 139.0, 141.0)}, "further apart than their intervals"),
        ({"top1": Estimate(70.0, 69.5, 70.5)}, "% top-1"),
    ],
)
def test_contradictions_are_named_and_can_be_decided(change: dict, says: str) -> None:
    first, second = a_run("a"), a_run("b")
    second = replace(second, arms=(replace(second.arms[0], **change), second.arms[1]))
    for order in permutations((first, second)):
        with pytest.raises(DataError, match="contradict each other") as error:
            joined(*order)
        assert "vim_small/r0 on NVIDIA H200" in str(error.value)
        assert all(word in str(error.value) for word in (says, "--prefer"))
        merged = joined(*order, prefer="b")
        assert merged.record.arms[0] == second.arms[0]
        assert any("contradicts the preferred b" in note for note in merged.notes)


def test_other_code_on_the_same_device_is_a_contradiction_and_on_another_a_note() -> None:
    newer = {"tool_version": "0.2.0"}
    with pytest.raises(DataError, match=r"code 0.1.0 \(abc\) / 0.2.0 \(abc\)|code 0.2.0 \(abc\) / 0.1.0 \(abc\)"):
        joined(a_run("a"), a_run("b", **newer))
    merged = joined(a_run("a"), a_run("b", "cuda:b", **newer))
    assert merged.notes == ("measured by different code: 0.1.0 (abc), 0.2.0 (abc)",)
    assert len(merged.record.arms) == 4


def test_accuracy_on_other_images_is_a_contradiction() -> None:
    other = replace(a_run("b", "cuda:b"), data={"vim_small": {"name": "val, 200 of 50000", "images": 200}})
    with pytest.raises(DataError, match="evaluated on val in a and on val, 200 of 50000 in b"):
        joined(a_run("a"), other)


def test_an_arm_that_failed_elsewhere_contradicts_nothing() -> None:
    failed = a_run("b")
    failed = replace(
        failed,
        arms=tuple(replace(a, images_per_second=None, top1=None, rounds=0, backend="auto", verdict="OOM") for a in failed.arms),
    )
    merged = joined(a_run("a"), failed)
    assert all(arm.images_per_second for arm in merged.record.arms)
    assert "was not measured in b (OOM)" in merged.notes[0]


def test_one_id_is_one_device() -> None:
    other = a_run("b", model="vim_tiny")
    other = replace(other, devices=(replace(other.devices[0], name="NVIDIA H100 PCIe"),))
    with pytest.raises(DataError, match="cuda:a is NVIDIA H200"):
        joined(a_run("a"), other)


def test_nothing_to_merge_and_an_unknown_preference_are_said() -> None:
    with pytest.raises(DataError, match="none of the runs has a result"):
        joined(replace(a_run("a"), arms=()))
    with pytest.raises(DataError, match="no such run among a"):
        joined(a_run("a"), prefer="z")


RUNS = [
    a_run("a", "cpu", "alpha", created_utc="2026-01-01T00:00:00Z"),
    a_run("b", "cpu", "beta", created_utc="2026-01-02T00:00:00Z"),
    a_run("c", "cuda:a", created_utc="2026-01-03T00:00:00Z"),
    a_run("d", "cuda:a", model="vim_tiny", created_utc="2026-01-04T00:00:00Z"),
    a_run("e", "cuda:a", rates={0: 100.2, 20: 140.0}, created_utc="2026-01-05T00:00:00Z"),
]


@settings(max_examples=60, deadline=None)
@given(st.permutations(RUNS), st.integers(1, 4), st.lists(st.sampled_from(RUNS), max_size=3))
def test_merging_is_independent_of_order_grouping_and_repetition(
    order: list[RunRecord], cut: int, again: list[RunRecord]
) -> None:
    whole = joined(*RUNS).record
    assert joined(*order).record == whole
    assert joined(joined(*order[:cut]).record, joined(*order[cut:]).record).record == whole
    assert joined(*order, *again).record == whole
    assert joined(whole, whole, *again).record == whole
    assert len(set(cells(whole))) == len(cells(whole))
    assert set(cells(whole)) == {cell for run in RUNS for cell in cells(joined(run).record)}


def test_every_arm_is_traced_to_its_run() -> None:
    merged = joined(*RUNS).record
    for source in sources_of(merged):
        original = next(run for run in RUNS if run.run_id == source.run_id)
        assert source.environment == original.environment
        assert source.argv == original.argv
    named = {(device, arm) for source in sources_of(merged) for device, names in source.arms.items() for arm in names}
    assert named == set(cells(merged))


def test_a_merged_run_that_was_edited_is_refused() -> None:
    merged = joined(*RUNS).record
    with pytest.raises(DataError, match="list of merged runs is damaged"):
        joined(replace(merged, plan={MERGED_FROM: [{"run_id": "x"}]}))
    with pytest.raises(DataError, match="does not say which run"):
        joined(replace(merged, plan={MERGED_FROM: merged.plan[MERGED_FROM][:1]}))


KEY = CellKey("cuda:a", "vim_small", "vim_small/r11", 11, "fp16", "triton", 128, "0" * 64, "0.1.0 (abc)")


def test_ids_are_stable_and_tell_every_field_apart() -> None:
    assert KEY.id == "a0ebefcf87d72c10"
    others = [
        replace(KEY, **change)
        for change in (
            {"device": "cuda:b"}, {"model": "vim_tiny"}, {"arm": "vim_small/r11/l1"}, {"r": 5}, {"precision": "bf16"},
            {"backend": "reference"}, {"batch_size": 1}, {"checkpoint": None}, {"code": "0.2.0"}, {"what": "train"},
        )
    ]  # fmt: skip
    assert len({key.id for key in (KEY, *others)}) == len(others) + 1
    assert all(len(KEY.differences(other)) == 1 for other in others)
    arm = a_run("a").arms[1]
    assert cell_key(arm, "cuda:a", "0.1.0 (abc)").id == cell_key(replace(arm, rounds=99), "cuda:a", "0.1.0 (abc)").id


def on_disk(run: RunRecord, folder: Path, *, raw: bool = True) -> Path:
    save(run, folder)
    if raw:
        with Store.create(folder) as store:
            for arm in run.arms:
                for number in range(3):
                    store.add_block(Block(arm.device, 0, number, 0, arm.arm, 4, 512, 1.0 + number / 10, 1.0))
            answers = {arm.arm: np.full(4, arm.r) for arm in run.arms}
            store_answers(store, run.devices[0].id, answers, np.zeros(4, np.int64))
    return folder


def test_folders_manifests_and_archives_become_one_run_with_its_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = on_disk(a_run("a", "cpu", "alpha"), tmp_path / "a")
    second = on_disk(a_run("b", "cpu", "beta"), tmp_path / "b")
    third = on_disk(a_run("c", "cuda:a", model="vim_tiny"), tmp_path / "c")
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(pack(second))
    out = tmp_path / "out"
    assert main(["merge", str(first), str(packed), str(third / "manifest.json"), "--out", str(out)]) == 0
    assert "cpu@" not in capsys.readouterr().err
    merged = load(out)
    assert len(merged.arms) == 6
    with Store.open(out) as store:
        for arm in merged.arms:
            assert len([b for b in store.blocks(arm.device) if b.arm == arm.arm]) == 3
            assert Predictions(store, arm.device).results([arm.arm]).best[arm.arm][:, 0].tolist() == [arm.r] * 4
    assert "vim_tiny" in (out / "table.md").read_text(encoding="utf-8")
    again = tmp_path / "again"
    assert main(["merge", str(out), "--out", str(again)]) == 0
    assert load(again) == merged
    with Store.open(again) as store:
        assert len(store.blocks("cpu@beta")) == 6


def test_sessions_of_two_runs_on_one_device_stay_apart(tmp_path: Path) -> None:
    first = on_disk(a_run("c", rates={0: 100.0}), tmp_path / "c")
    second = on_disk(a_run("d", rates={0: 100.0}, model="vim_tiny"), tmp_path / "d")
    gather([first, second], tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "out" / "run.sqlite")) as connection:
        rows = connection.execute("SELECT arm, session, count(*) FROM block GROUP BY arm, session").fetchall()
    assert sorted(rows) == [("vim_small/r0", 0, 3), ("vim_tiny/r0", 1, 3)]


def test_a_run_without_raw_data_is_merged_and_said(tmp_path: Path) -> None:
    _, notes = gather([on_disk(a_run("a"), tmp_path / "a", raw=False)], tmp_path / "out")
    assert "raw blocks are not" in notes[0]


def test_a_failed_merge_leaves_nothing_and_a_finished_one_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = on_disk(a_run("a"), tmp_path / "a")
    second = on_disk(a_run("b", tool_version="0.2.0"), tmp_path / "b")
    out = tmp_path / "out"
    assert main(["merge", str(first), str(second), "--out", str(out)]) == 2
    assert not out.exists()
    assert main(["merge", str(first), str(second), "--out", str(out), "--prefer", "b", "--json", "-"]) == 0
    assert '"tool_version": "0.2.0"' in capsys.readouterr().out
    assert main(["merge", str(first), "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["resume", "rerun"])
def test_a_merged_run_cannot_be_measured_again_and_says_which_can(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    gather([on_disk(a_run("a"), tmp_path / "a")], tmp_path / "out")
    assert main([command, str(tmp_path / "out")]) == 2
    assert "merged from a" in capsys.readouterr().err
