"""Fleet: plans, tasks, what the head makes of events, and the engines against stand-ins of Ray and Slurm."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from sample_runs import arms, record

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.fleet import host
from rmeeto_bench.fleet.drive import drive, is_done
from rmeeto_bench.fleet.engines.local import Patience
from rmeeto_bench.fleet.engines.ray import RayEngine
from rmeeto_bench.fleet.engines.slurm import SlurmEngine
from rmeeto_bench.fleet.host import Event, carry_out, refusal
from rmeeto_bench.fleet.join.archive import pack, unpack
from rmeeto_bench.fleet.plan import Task, check_kinds, read_plan, tasks
from rmeeto_bench.records.run import Block, DeviceRecord, RunRecord, load, save

KINDS = ("v100", "a4000", "h100-sxm")
PLAN = BenchPlan(models=("vim_nano",), rs=(0, 11), preset="quick")


@pytest.fixture(scope="module")
def todo() -> list[Task]:
    return tasks(PLAN, KINDS, {}, simulated=True)


# ---- plans


def test_a_task_per_kind_and_model_with_stable_ids(todo: list[Task]) -> None:
    again = tasks(replace(PLAN, models=("vim_nano", "vim_tiny")), KINDS, {}, simulated=True)
    assert len(again) == 6
    assert [task.id for task in again if task.model == "vim_nano"] == [task.id for task in todo]
    assert len({task.id for task in again}) == 6
    assert [task.plan["gpus"] for task in todo] == ["sim:v100", "sim:a4000", "sim:h100-sxm"]
    assert todo[0].arms == ("vim_nano/r0", "vim_nano/r11")
    assert Task(**json.loads(json.dumps(asdict(todo[0])))).id == todo[0].id


def test_ids_change_with_everything_that_changes_a_result(todo: list[Task]) -> None:
    (other,) = tasks(replace(PLAN, seed=1), KINDS[:1], {}, simulated=True)
    ids = {todo[0].id, other.id, replace(todo[0], code="x").id, replace(todo[0], profiles="x").id}
    assert len(ids) == 4


def test_paths_may_differ_by_kind() -> None:
    found = tasks(PLAN, ("v100", "cpu"), {"v100": {"checkpoints": "/scratch/c", "data": "/scratch/d"}}, simulated=False)
    assert [(task.plan["gpus"], task.plan["checkpoints"], task.plan["data"]) for task in found] == [
        ("v100", "/scratch/c", "/scratch/d"),
        ("none", None, None),
    ]


def test_kinds_are_profiles() -> None:
    assert check_kinds("v100, cpu,v100") == ("v100", "cpu")
    with pytest.raises(UsageError, match="no profile 'b900'"):
        check_kinds("v100,b900")


def test_a_plan_is_the_flags_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        'kinds = ["v100", "cpu"]\nr = [0, 11]\nquick = true\nno-graphs = false\nseed = 3\n[paths.v100]\ndata = "/d"\n'
    )
    words, paths = read_plan(path)
    assert words == ["--kinds", "v100,cpu", "--r", "0,11", "--quick", "--seed", "3"]
    assert paths == {"v100": {"data": "/d"}}


# ---- the head


def a_run(task: Task, *, status: str = "complete", keep: int = 2) -> RunRecord:
    device = f"sim:{task.kind}"
    made = record((DeviceRecord(device, task.kind, "sim", task.kind),), arms(device, "vim_nano", {0: 100.0, 11: 120.0})[:keep])
    return replace(made, run_id=f"run-{task.kind}", status=status, environment={"host": task.kind})


def stored(task: Task, folder: Path, **changes: Any) -> Path:
    run = a_run(task, **changes)
    save(run, folder)
    with Store.create(folder) as store:
        for arm in run.arms:
            store.add_block(Block(arm.device, 0, 0, 0, arm.arm, 4, 512, 1.0, 1.0))
    return folder


class FakeEngine:
    """Plays a list of events; remembers what it was asked for."""

    def __init__(self, events: Sequence[Event], absent: dict[str, str] | None = None) -> None:
        self.events, self.absent, self.asked = events, absent or {}, []

    def missing(self, kinds: Sequence[str]) -> dict[str, str]:
        return {kind: why for kind, why in self.absent.items() if kind in kinds}

    def run(self, given: Sequence[Task], out: Path) -> Iterator[Event]:
        self.asked = [task.kind for task in given]
        yield from self.events


def shipped(task: Task, tmp_path: Path, state: str = "done", **changes: Any) -> Event:
    folder = stored(task, tmp_path / f"{task.kind}-{state}-{len(list(tmp_path.iterdir()))}", **changes)
    return Event(task.id, state, "host", archive=pack(folder))


def test_results_become_one_run_however_they_arrive(tmp_path: Path, todo: list[Task]) -> None:
    made = tmp_path / "made"
    made.mkdir()
    seen: list[Event] = []
    events = [
        shipped(todo[1], made, "committed", status="running", keep=1),
        shipped(todo[0], made),
        Event(todo[1].id, "started", "", "its node was lost; it is started again"),
        shipped(todo[2], made),
        shipped(todo[1], made),
    ]
    out = tmp_path / "out"
    outcome = drive(FakeEngine(events), todo, out, seen.append)
    assert outcome.missing == ()
    assert [event.state for event in seen] == [event.state for event in events]
    merged = load(out)
    assert merged == outcome.record
    assert merged.status == "complete"
    assert [(arm.device, arm.arm) for arm in merged.arms] == [
        (f"sim:{kind}", f"vim_nano/r{r}") for kind in sorted(KINDS) for r in (0, 11)
    ]
    with Store.open(out) as store:
        assert all(len(store.blocks(f"sim:{kind}")) == 2 for kind in KINDS)


def test_a_lost_task_is_named_and_the_same_call_again_does_only_that(tmp_path: Path, todo: list[Task]) -> None:
    made = tmp_path / "made"
    made.mkdir()
    out = tmp_path / "out"
    lost = Event(todo[1].id, "lost", "", "a4000 vim_nano: its node was lost")
    first = FakeEngine([shipped(todo[0], made), lost, shipped(todo[2], made)])
    outcome = drive(first, todo, out, lambda event: None)
    assert outcome.missing == ("a4000 vim_nano/r0", "a4000 vim_nano/r11")
    assert (outcome.record.status, outcome.record.failures) == ("failed", ("a4000 vim_nano: its node was lost",))
    second = FakeEngine([shipped(todo[1], made)])
    outcome = drive(second, todo, out, lambda event: None)
    assert second.asked == ["a4000"]
    assert (outcome.missing, load(out).status, load(out).failures) == ((), "complete", ())
    third = FakeEngine([])
    assert drive(third, todo, out, lambda event: None).missing == ()
    assert third.asked == []


def test_a_kind_nobody_has_is_said_and_the_others_go_on(tmp_path: Path, todo: list[Task]) -> None:
    made = tmp_path / "made"
    made.mkdir()
    engine = FakeEngine([shipped(todo[0], made), shipped(todo[2], made)], {"a4000": "no node with a a4000"})
    outcome = drive(engine, todo, tmp_path / "out", lambda event: None)
    assert engine.asked == ["v100", "h100-sxm"]
    assert outcome.endings[todo[1].id].detail == "no node with a a4000"
    assert len(outcome.missing) == 2


def test_a_folder_of_another_fleet_or_run_is_refused(tmp_path: Path, todo: list[Task]) -> None:
    drive(FakeEngine([]), todo, tmp_path / "out", lambda event: None)
    with pytest.raises(DataError, match="another fleet's results"):
        drive(FakeEngine([]), todo[:1], tmp_path / "out", lambda event: None)
    stored(todo[0], tmp_path / "run")
    with pytest.raises(DataError, match="already holds a run"):
        drive(FakeEngine([]), todo, tmp_path / "run", lambda event: None)


def test_a_run_cut_short_is_not_done(tmp_path: Path, todo: list[Task]) -> None:
    for name, changes, expected in (("a", {}, True), ("b", {"status": "interrupted"}, False), ("c", {"keep": 1}, False)):
        stored(todo[0], tmp_path / name / "cells" / todo[0].id, **changes)
        assert is_done(todo[0], tmp_path / name) is expected


def test_a_packed_run_is_the_run(tmp_path: Path, todo: list[Task]) -> None:
    folder = stored(todo[0], tmp_path / "run")
    (tmp_path / "run.tar.gz").write_bytes(pack(folder))
    copy = unpack(tmp_path / "run.tar.gz", tmp_path / "copy")
    assert load(copy) == load(folder)
    with Store.open(copy) as store:
        assert len(store.blocks("sim:v100")) == 2


# ---- a host


def test_a_host_with_other_code_or_profiles_is_refused_by_name(tmp_path: Path, todo: list[Task]) -> None:
    assert refusal(todo[0]) is None
    for change, says in (({"code": "9.9.9"}, "the fleet 9.9.9"), ({"profiles": "0" * 16}, "GPU profiles")):
        (event,) = carry_out(replace(todo[0], **change), tmp_path / "run", ship=True)
        assert (event.state, event.final) == ("refused", True)
        assert event.host in event.detail
        assert says in event.detail
        assert not (tmp_path / "run").exists()


STAND_IN = """
import json, os, sys, time
from pathlib import Path
folder, plan = Path(sys.argv[1]), json.loads(sys.stdin.read())
source = Path(os.environ["STAND_IN"])
if source.is_file():
    print("rmeeto-bench: " + source.read_text(), file=sys.stderr)
    sys.exit(6)
for name in ("run.sqlite", "manifest.json"):
    (folder / name).write_bytes((source / name).read_bytes())
time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0.3")))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a small program in the place of the measuring process: it copies the run it is pointed at, or fails."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.setattr(host, "MODULE", "stand_in")
    monkeypatch.setattr(host, "EVERY", 0.05)
    return tmp_path


def test_a_host_sends_what_is_committed_and_then_the_whole(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]
) -> None:
    monkeypatch.setenv("STAND_IN", str(stored(todo[0], stand_in / "source")))
    events = list(carry_out(todo[0], stand_in / "run", ship=True))
    assert [event.state for event in events] == ["started", "committed", "done"]
    assert all(event.archive for event in events[1:])
    assert [event.archive for event in carry_out(todo[0], stand_in / "run2", ship=False)] == [None, None, None]


def test_a_host_says_why_a_run_failed(stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]) -> None:
    (stand_in / "reason").write_text("no GPU v100; use another")
    monkeypatch.setenv("STAND_IN", str(stand_in / "reason"))
    *_, last = carry_out(todo[0], stand_in / "run", ship=True)
    assert last.state == "failed"
    assert "no GPU v100; use another (exit code 6)" in last.detail


def test_a_run_on_another_kind_of_gpu_is_refused(stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]) -> None:
    monkeypatch.setenv("STAND_IN", str(stored(todo[1], stand_in / "source")))
    *_, last = carry_out(todo[0], stand_in / "run", ship=True)
    assert last.state == "refused"
    assert "has a4000 (a4000), not v100" in last.detail


def test_a_run_that_lacks_arms_is_not_done(stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]) -> None:
    monkeypatch.setenv("STAND_IN", str(stored(todo[0], stand_in / "source", keep=1)))
    *_, last = carry_out(todo[0], stand_in / "run", ship=True)
    assert last.state == "failed"


def test_what_a_lost_attempt_on_another_gpu_left_is_set_aside(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]
) -> None:
    monkeypatch.setenv("STAND_IN", str(stored(todo[0], stand_in / "source")))
    stored(todo[1], stand_in / "run", status="running", keep=1)  # of a device this plan does not have
    *_, last = carry_out(todo[0], stand_in / "run", ship=True)
    assert last.state == "done"
    assert load(stand_in / "run.lost1").status == "running"


def test_the_work_ends_with_the_worker(stand_in: Path, monkeypatch: pytest.MonkeyPatch, todo: list[Task]) -> None:
    monkeypatch.setenv("STAND_IN", str(stored(todo[0], stand_in / "source")))
    monkeypatch.setenv("STAND_IN_SECONDS", "60")
    children: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(host.subprocess, "Popen", remember)
    events = carry_out(todo[0], stand_in / "run", ship=False)
    assert [next(events).state, next(events).state] == ["started", "committed"]
    events.close()  # what an engine does to a task it gives up
    assert children[-1].poll() is not None


# ---- Ray


class RayError(Exception):
    """Stands for what Ray raises for a lost node."""


class RayTaskError(RayError):
    """Stands for an exception in the worker."""


class FakeRay:
    """A cluster whose tasks yield what the test says: events, or exceptions."""

    def __init__(self, nodes: list[dict[str, Any]], scripts: dict[str, list[list[Any]]]) -> None:
        self._nodes, self._scripts = nodes, scripts
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def init(self, **options: Any) -> None:
        self.options = options

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda task: self._start(task, options)))

    def _start(self, task: dict[str, Any], options: dict[str, Any]) -> Iterator[Any]:
        self.started.append((task["kind"], options))
        return iter(self._scripts[task["kind"]].pop(0))

    def wait(self, streams: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return streams[:1], streams[1:]

    def get(self, item: Any, timeout: float) -> Any:
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, stream: Any, force: bool) -> None:
        self.cancelled.append(stream)


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"CPU": 1, "GPU": 1, f"accelerator_type:{name}": 1}, "Labels": labels}


def ray_engine(monkeypatch: pytest.MonkeyPatch, fake: FakeRay, **limits: float) -> RayEngine:
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    return RayEngine("local", Patience(**{"patience": 0.0, "deadline": 60.0, **limits}))  # type: ignore[arg-type]


def done(task: Task) -> dict[str, Any]:
    return asdict(Event(task.id, "done", "host"))


def test_ray_tasks_go_to_their_kind_of_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, todo: list[Task]) -> None:
    nodes = [node("V100"), node("RTX-A4000"), node("H100", **{"rmeeto-kind": "h100-sxm"})]
    fake = FakeRay(nodes, {task.kind: [[done(task)]] for task in todo})
    engine = ray_engine(monkeypatch, fake)
    assert (fake.options["dashboard_host"], fake.options["include_dashboard"]) == ("127.0.0.1", False)
    assert [event.state for event in engine.run(todo, tmp_path)] == ["done"] * 3
    options = dict(fake.started)
    assert options["v100"]["resources"] == {"accelerator_type:V100": 0.001}
    assert options["h100-sxm"]["label_selector"] == {"rmeeto-kind": "h100-sxm"}
    assert all(chosen["num_gpus"] == 1 and chosen["max_retries"] == 0 for chosen in options.values())


def test_ray_names_a_kind_the_cluster_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ray_engine(monkeypatch, FakeRay([node("V100"), {**node("H100"), "Alive": False}], {}))
    absent = engine.missing(("v100", "h100-sxm", "cpu"))
    assert list(absent) == ["h100-sxm"]
    assert "it has V100" in absent["h100-sxm"]


def test_ray_starts_a_task_of_a_lost_node_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, todo: list[Task]) -> None:
    script = [[asdict(Event(todo[0].id, "started", "h")), RayError("node died")], [done(todo[0])]]
    engine = ray_engine(monkeypatch, FakeRay([node("V100")], {"v100": script}))
    events = list(engine.run(todo[:1], tmp_path))
    assert [event.state for event in events] == ["started", "started", "done"]
    assert "its node was lost" in events[1].detail


def test_ray_gives_up_after_its_tries_or_where_no_node_comes_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, todo: list[Task]
) -> None:
    fake = FakeRay([node("V100")], {"v100": [[RayError("died")], [RayError("died")]]})
    *_, last = ray_engine(monkeypatch, fake).run(todo[:1], tmp_path)
    assert last.state == "lost"
    assert "at try 2" in last.detail
    gone = FakeRay([node("H100")], {"v100": [[RayError("died")]]})
    *_, last = ray_engine(monkeypatch, gone).run(todo[:1], tmp_path)
    assert last.state == "lost"
    assert "no other v100 joined" in last.detail


def test_ray_reports_an_exception_and_a_task_that_never_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, todo: list[Task]
) -> None:
    fake = FakeRay([node("V100")], {"v100": [[RayTaskError("traceback\nValueError: what happened")]]})
    (event,) = ray_engine(monkeypatch, fake).run(todo[:1], tmp_path)
    assert (event.state, event.detail) == ("failed", "v100 vim_nano: ValueError: what happened")
    fake = FakeRay([node("V100")], {"v100": [[done(todo[0])]]})
    monkeypatch.setattr(fake, "wait", lambda streams, **_: ([], streams))
    (event,) = ray_engine(monkeypatch, fake, deadline=0.0).run(todo[:1], tmp_path)
    assert event.state == "lost"
    assert "--deadline" in event.detail
    assert len(fake.cancelled) == 1


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = [
        *["fleet", "--engine", "ray", "--kinds", "v100", "--device", "sim", "--model", "vim_nano", "--out"],
        str(tmp_path / "o"),
    ]
    fake = FakeRay([], {})

    def refuse(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(fake, "init", refuse)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert main(line) == 6
    assert "ray start --head --dashboard-host 127.0.0.1" in capsys.readouterr().err


# ---- Slurm


class FakeExecutor:
    """submitit's, without jobs: keeps its parameters and runs calls in this process."""

    parameters: ClassVar[list[dict[str, Any]]] = []
    refuse: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, cluster: str) -> None:
        self.cluster = cluster

    def update_parameters(self, **values: Any) -> None:
        FakeExecutor.parameters.append(values)

    def map_array(self, function: Any, given: list[Task], folders: list[Path]) -> list[Any]:
        if given[0].kind in FakeExecutor.refuse:
            raise FailedJobError("sbatch: error: Invalid generic resource (gres) specification")
        return [SimpleNamespace(job_id=str(i), done=lambda: True, result=self._result(task)) for i, task in enumerate(given)]

    def _result(self, task: Task) -> Any:
        if task.kind == "h100-sxm":
            return lambda: (_ for _ in ()).throw(UncompletedJobError("Job 3 has not produced any output (state: NODE_FAIL)"))
        return lambda: [Event(task.id, "done", task.kind)]


class UncompletedJobError(RuntimeError):
    """Stands for submitit's."""


class FailedJobError(UncompletedJobError):
    """Stands for submitit's."""


def fake_submitit(refuse: tuple[str, ...] = (), affinity: int = 2) -> Any:
    FakeExecutor.parameters, FakeExecutor.refuse = [], refuse
    errors = SimpleNamespace(FailedJobError=FailedJobError, UncompletedJobError=UncompletedJobError)
    slurm = SimpleNamespace(affinity=lambda: affinity)
    return SimpleNamespace(AutoExecutor=FakeExecutor, SlurmExecutor=slurm, core=SimpleNamespace(utils=errors))


def test_slurm_asks_for_each_kind_by_its_name_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, todo: list[Task]) -> None:
    monkeypatch.setitem(sys.modules, "submitit", fake_submitit(refuse=("a4000",)))
    engine = SlurmEngine(Patience(deadline=7200), partition="gpu")
    events = {event.task: event for event in engine.run(todo, tmp_path) if event.final}
    assert [parameters["slurm_gres"] for parameters in FakeExecutor.parameters] == ["gpu:v100:1", "gpu:a4000:1", "gpu:h100:1"]
    assert all(parameters["slurm_partition"] == "gpu" for parameters in FakeExecutor.parameters)
    assert all(parameters["slurm_additional_parameters"] == {"requeue": True} for parameters in FakeExecutor.parameters)
    assert FakeExecutor.parameters[0]["timeout_min"] == 120
    assert [events[task.id].state for task in todo] == ["done", "lost", "lost"]
    assert "sbatch refused gres gpu:a4000" in events[todo[1].id].detail
    assert "NODE_FAIL" in events[todo[2].id].detail
    logging.getLogger("submitit").setLevel(logging.NOTSET)


def test_no_submitit_and_no_slurm_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = [
        *["fleet", "--engine", "slurm", "--kinds", "v100", "--device", "sim", "--model", "vim_nano", "--out"],
        str(tmp_path / "o"),
    ]
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(line) == 6
    assert "pip install 'rmeeto-bench[fleet]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", fake_submitit(affinity=-1))
    assert main(line) == 6
    assert "--cluster local" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_way_through_submitit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("submitit", reason="the extra 'fleet' is not installed")
    out = tmp_path / "out"
    plan = tmp_path / "plan.toml"
    plan.write_text('kinds = "v100"\nmodel = "vim_nano"\nr = 11\nquick = true\ndevice = "sim"\n')
    line = ["fleet", str(plan), "--engine", "slurm", "--cluster", "local", "--out", str(out)]
    assert main(line) == 0
    captured = capsys.readouterr()
    assert "2 of 2 cells measured" in captured.err
    assert "V100 (simulated)" in captured.out
    assert [arm.r for arm in load(out).arms] == [0, 11]
    assert main(line) == 0  # all is done: nothing is submitted again
    assert "started" not in capsys.readouterr().err
