"""A run survives kill -9, lost devices, full disks and Ctrl-C; what was measured stays, what is missing is measured."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from bench_harness import all_blocks, breaking_add_block, controls, fork_and, sim_plan

from rmeeto_bench.bench.run.runner import rerun, resume, run
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.errors import DataError, DiskFullError, UnavailableError
from rmeeto_bench.measure.protocol import DEFAULT, PRESETS
from rmeeto_bench.records.run import MANIFEST, RunRecord, load

PLAN = sim_plan()
POINTS = 15
ROUNDS = 5


@pytest.fixture(autouse=True, scope="module")
def short_sessions() -> Iterator[None]:
    """Three sessions of five rounds: what is tested is how they end."""
    with pytest.MonkeyPatch.context() as patch:
        short = replace(DEFAULT, sessions=3, min_rounds=ROUNDS, max_rounds=ROUNDS, target=0.1)
        patch.setitem(PRESETS, DEFAULT.name, short)
        yield


def structure(record: RunRecord) -> list[tuple[object, ...]]:
    """What must be the same however often a run was cut short."""
    return [
        (record.status, record.failures, [device.id for device in record.devices]),
        *((arm.device, arm.arm, arm.verdict, arm.sessions, arm.labels, arm.rounds) for arm in record.arms),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(PLAN, folder, controls()), folder


def test_an_uninterrupted_run_is_complete(whole: tuple[RunRecord, Path]) -> None:
    record, folder = whole
    assert record.status == "complete"
    assert [arm.verdict for arm in record.arms] == ["SIMULATED", "SIMULATED"]
    assert [arm.sessions for arm in record.arms] == [3, 3]
    assert load(folder) == record
    assert not list(folder.glob(".*"))


def killed_run(folder: Path, acknowledged: Path, victim: str, after: int, delay: float) -> None:
    """Begin a run in a child and kill -9 the parent, the worker or both `delay` seconds after the `after`-th block is stored.

    Counting blocks, not seconds from the start, spreads the points over the run however fast the machine is.
    """

    def count_commits(job: Job) -> None:
        store_block = Store.add_block
        file = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def add_block(self: Store, block: object) -> None:
            store_block(self, block)  # type: ignore[arg-type]
            os.write(file, b".")

        Store.add_block = add_block  # type: ignore[assignment,method-assign]

    workers = acknowledged.with_suffix(".pids")

    def note_pid(job: Job) -> None:
        with workers.open("a") as file:
            file.write(f"{os.getpid()}\n")
        count_commits(job)

    pid = fork_and(lambda: run(PLAN, folder, controls(note_pid)))
    while after and (not acknowledged.exists() or acknowledged.stat().st_size < after):
        time.sleep(0.001)
    time.sleep(delay)
    if victim in ("worker", "both") and workers.exists():
        with suppress(ProcessLookupError):  # between two workers
            os.kill(int(workers.read_text().split()[-1]), signal.SIGKILL)
    if victim in ("parent", "both"):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.slow
def test_kill_9_at_random_points_then_resume(whole: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, complete = whole
    expected, blocks, draw, cut = structure(record), len(all_blocks(complete)), random.Random(4), 0
    for point in range(POINTS):
        folder, acknowledged = tmp_path / f"{point}", tmp_path / f"{point}.commits"
        killed_run(folder, acknowledged, ("parent", "worker", "both")[point % 3], draw.randrange(blocks), draw.uniform(0, 0.02))
        commits = acknowledged.stat().st_size if acknowledged.exists() else 0
        if not (folder / MANIFEST).exists():  # killed before the run had begun
            assert commits == 0
            assert structure(run(PLAN, folder, controls())) == expected
            continue
        before = load(folder).status
        stored = set(all_blocks(folder)) if (folder / "run.sqlite").exists() and commits else set()
        assert commits <= len(stored) <= commits + 1  # only the block in flight may be lost
        cut += before != "complete"
        assert structure(resume(folder, controls())) == expected, point
        after = all_blocks(folder)
        assert stored <= set(after)
        assert max(Counter((session, round_, arm) for session, round_, arm, _ in after).values()) == 1
    assert cut > POINTS / 2


def test_an_interrupted_session_is_measured_anew_and_finished_ones_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill = breaking_add_block(5, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def second_session(job: Job) -> None:
        if job.session == 1:
            kill(job)

    listening = controls(second_session)
    record = run(PLAN, folder, listening)
    assert record.status == "failed"
    assert "session 2: its process was ended by SIGKILL" in record.failures[0]
    assert listening.tell.notes == list(record.failures)  # type: ignore[attr-defined]
    assert [(arm.verdict, arm.sessions) for arm in record.arms] == [("INTERRUPTED", 1)] * 2
    first = [block for block in all_blocks(folder) if block[0] == 0]
    record = resume(folder, controls())
    assert (record.status, record.failures, len(record.resumed_utc)) == ("complete", (), 1)
    with Store.open(folder) as store:
        assert [s.status for s in store.sessions("sim:rtx4090")] == ["done", "lost", "done", "done"]
    assert [block for block in all_blocks(folder) if block[0] == 0] == first
    assert len([block for block in all_blocks(folder) if block[0] == 1]) == 4  # kept, not counted
    assert sum(arm.rounds for arm in record.arms) == len([block for block in all_blocks(folder) if block[0] != 1])


def test_a_device_that_fails_leaves_the_rows_of_the_others_complete(tmp_path: Path) -> None:
    folder, plan = tmp_path / "run", sim_plan("a4000,h100-sxm,v100")
    record = run(plan, folder, controls(breaking_add_block(3, lambda: os._exit(9), device="h100-sxm")))
    verdicts = {device.id: {arm.verdict for arm in record.arms if arm.device == device.id} for device in record.devices}
    assert verdicts["sim:a4000"] == verdicts["sim:v100"] == {"SIMULATED"}
    assert verdicts["sim:h100-sxm"] == {"INTERRUPTED"} or verdicts["sim:h100-sxm"] == {"NOT_MEASURED"}
    assert all(arm.sessions == 3 for arm in record.arms if arm.device != "sim:h100-sxm")
    assert len(record.failures) == 1
    assert "ended with code 9" in record.failures[0]
    assert {arm.verdict for arm in resume(folder, controls()).arms} == {"SIMULATED"}


def test_a_gpu_that_vanished_is_lost_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(job: Job) -> None:
        def own_device(*_: object) -> object:
            raise UnavailableError("it is not there any more")

        if "v100" in job.device:
            monkeypatch.setattr("rmeeto_bench.bench.session.jobs.own_device", own_device)

    record = run(sim_plan("a4000,v100"), tmp_path / "run", controls(gone))
    assert [failure.count("\n") for failure in record.failures] == [0]
    assert "not there any more" in record.failures[0]
    assert {arm.verdict for arm in record.arms if arm.device == "sim:a4000"} == {"SIMULATED"}


def test_a_full_disk_ends_the_run_with_what_it_has(tmp_path: Path) -> None:
    def full() -> None:
        raise DiskFullError("cannot write; free some disk space")

    folder = tmp_path / "run"
    with pytest.raises(DiskFullError, match="free some disk space"):
        run(sim_plan("a4000,v100"), folder, controls(breaking_add_block(9, full)))
    assert len(all_blocks(folder, "sim:a4000")) == 8
    assert resume(folder, controls()).status == "complete"


def test_being_asked_to_stop_finishes_the_block_and_can_be_continued(tmp_path: Path) -> None:
    folder, asked = tmp_path / "run", []
    listening = controls(should_stop=lambda: bool(asked), tell=lambda news: asked.append(1) if news.progress else None)
    record = run(PLAN, folder, listening)
    assert record.status == "interrupted"
    with Store.open(folder) as store:
        (first,) = store.sessions("sim:rtx4090")  # of three; on a busy machine its five rounds may be done before it is asked
        assert first.status in ("stopped", "done")
    assert structure(resume(folder, controls()))[1:] == [
        ("sim:rtx4090", f"vim_tiny/r{r}", "SIMULATED", 3, (), 3 * ROUNDS) for r in (0, 20)
    ]


def test_a_complete_run_is_not_measured_again(whole: tuple[RunRecord, Path]) -> None:
    record, folder = whole
    before = all_blocks(folder)
    assert resume(folder, controls()).arms == record.arms
    assert all_blocks(folder) == before


def test_rerun_repeats_the_run_to_the_bit(whole: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, folder = whole
    again = rerun(folder, tmp_path / "again", controls())
    assert again.parent_run == record.run_id != again.run_id
    assert again.arms == record.arms
    assert all_blocks(tmp_path / "again") == all_blocks(folder)


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder of a run"):
        resume(tmp_path, controls())


def test_a_refused_plan_leaves_nothing_behind(tmp_path: Path) -> None:
    from rmeeto_bench.errors import CheckpointError

    plan = sim_plan(gpus="none", models=("vim_nano",), checkpoints=str(tmp_path / "no.pth"))
    with pytest.raises(CheckpointError):
        run(plan, tmp_path / "run", controls())
    assert not (tmp_path / "run").exists()


def test_a_driver_that_changed_between_sessions_is_found(tmp_path: Path) -> None:
    def update(job: Job) -> None:
        from rmeeto_bench.bench.session import jobs

        jobs.environment = lambda *_, **__: {"driver": "2" if job.session == 1 else "1"}  # type: ignore[assignment]

    assert {arm.verdict for arm in run(PLAN, tmp_path / "run", controls(update)).arms} == {"ENV_CHANGED"}
