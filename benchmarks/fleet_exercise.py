"""Exercises the fleet for real on one machine: three Ray nodes, one killed mid-run, then three Slurm nodes; simulated GPUs.

    python benchmarks/fleet_exercise.py ray      # needs pip install 'rmeeto-bench[fleet]'; four to ten minutes on two cores
    python benchmarks/fleet_exercise.py slurm    # needs Debian's slurm-wlm and munge, as root; as long
    python benchmarks/fleet_exercise.py local    # submitit's own executor, where Slurm cannot start

Prints what happened and one line of JSON; the exit code is 1 if a cell was lost or doubled, or an error was not said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = {"v100": "V100", "a4000": "RTX-A4000", "h100-sxm": "H100"}
KILLED = "v100"
ROOT = Path(__file__).resolve().parents[1]


def fleet(out: Path, *words: str, kinds: str = ",".join(KINDS)) -> subprocess.Popen[str]:
    """The command under test, in a process of its own; its lines come on standard error."""
    plan = out.parent / "plan.toml"
    plan.write_text('model = "vim_nano"\nr = [0, 11]\nquick = true\ndevice = "sim"\n')
    command = [sys.executable, "-m", "rmeeto_bench", "fleet", str(plan), "--kinds", kinds, "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def follow(process: subprocess.Popen[str], on_line: Callable[[str], None] = lambda line: None) -> tuple[int, list[str]]:
    """Echo a fleet's lines until it ends; (exit code, lines)."""
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line.rstrip())
        print("  ", line.rstrip(), flush=True)
        on_line(line)
    return process.wait(), lines


def verify(out: Path) -> dict[str, Any]:
    """Whether the merged run has every cell once, with its raw blocks."""
    from rmeeto_bench.bench.store.store import Store
    from rmeeto_bench.records.run import load

    record = load(out)
    found = [(arm.device, arm.arm) for arm in record.arms]
    planned = {(f"sim:{kind}", f"vim_nano/r{r}") for kind in KINDS for r in (0, 11)}
    with Store.open(out) as store:
        blocks = {device.id: len(store.blocks(device.id)) for device in record.devices}
    return {
        "cells": len(found),
        "lost": sorted(map(str, planned - set(found))),
        "doubled": len(found) - len(set(found)),
        "status": record.status,
        "blocks": blocks,
    }


def descendants(pid: int) -> list[int]:
    """Process ids below one, itself included."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def is_ray(pid: int) -> bool:
    """Whether a process is Ray's own: the work below a worker must end by itself when that is gone."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"raylet" in command or command.startswith(b"ray::") or b"ray/_private" in command or b"ray/dashboard" in command


def alive(pids: list[int]) -> list[int]:
    """Those that still run (zombies don't)."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def ray_exercise(out: Path) -> dict[str, Any]:
    """A head and three nodes; the V100's node is killed when its task has started, another V100 joins when that is noticed."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    nodes = {}

    def join(kind: str) -> None:
        resources = {f"accelerator_type:{KINDS[kind]}": 1}
        nodes[kind] = cluster.add_node(num_cpus=1, num_gpus=1, resources=resources, **small)

    for kind in KINDS:
        join(kind)
    result: dict[str, Any] = {"engine": "ray", "nodes": len(nodes) + 1}
    try:
        words = ("--engine", "ray", "--address", cluster.address)
        code, lines = follow(fleet(out.with_name("lacking"), *words, kinds="rtx3090"))
        result["lacking kind"] = {"exit code": code, "said": any("no node with a rtx3090" in line for line in lines)}
        killed: dict[str, Any] = {}

        def kill(line: str) -> None:
            if f"{KILLED} vim_nano started on" in line and not killed:
                raylet = nodes[KILLED].all_processes["raylet"][0].process.pid
                killed["pids"] = descendants(raylet)
                time.sleep(5.0)  # well into the run
                killed["pids"] += descendants(raylet)
                for pid in (pid for pid in killed["pids"] if is_ray(pid)):
                    os.kill(pid, signal.SIGKILL)
                killed["at"] = time.monotonic()
                print("   killed the V100's node", flush=True)
            elif f"{KILLED} vim_nano started:" in line and "again" not in killed:
                killed["again"] = time.monotonic() - killed["at"]
                join(KILLED)
                print("   another V100 joined", flush=True)

        start = time.monotonic()
        code, _ = follow(fleet(out, *words, "--patience", "120"), kill)
        result |= {"seconds": round(time.monotonic() - start, 1), "exit code": code, **verify(out)}
        result["seconds until the loss was noticed"] = round(killed["again"], 1) if "again" in killed else None
        result["orphans"] = len(alive(sorted(set(killed["pids"]))))
    finally:
        cluster.shutdown()
    return result


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SLURM_CONF = """ClusterName=exercise
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def start_slurm(folder: Path) -> list[subprocess.Popen[bytes]]:
    """munged, slurmctld and a slurmd per kind, all in one folder and on loopback. Returns their processes."""
    host = socket.gethostname()
    for name in ("state", *(f"spool-{kind}" for kind in KINDS)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    lines = [
        f"NodeName={kind} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1 RealMemory=2000 "
        f"Gres=gpu:{kind_in_slurm(kind)}:1 State=UNKNOWN"
        for kind in KINDS
    ]
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(host=host, folder=folder, port=free_port(), nodes="\n".join(lines)))
    gres = [f"NodeName={kind} Name=gpu Type={kind_in_slurm(kind)} File=/dev/null" for kind in KINDS]
    (folder / "gres.conf").write_text("\n".join(gres) + "\n")
    os.environ["SLURM_CONF"] = str(conf)
    log = (folder / "daemons.log").open("wb")
    munge = ["munged", "--force", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    commands = [munge, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", kind] for kind in KINDS)]
    daemons = []
    for command in commands:
        daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
        time.sleep(2.0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(["sinfo", "-h", "-o", "%t %D"], capture_output=True, text=True, check=False)
        if done.stdout.split() == ["idle", str(len(KINDS))]:
            return daemons
        time.sleep(1.0)
    print((folder / "daemons.log").read_text(), (folder / "slurmctld.log").read_text(), file=sys.stderr)
    stop(daemons)
    raise SystemExit("Slurm did not start here; its last words are above, and `local` runs the same plan without it")


def kind_in_slurm(kind: str) -> str:
    """What a profile's GPU is called there."""
    from rmeeto_bench.fleet.engines.local import profile_of

    return profile_of(kind).slurm


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End our own daemons, the last first."""
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def slurm_exercise(out: Path) -> dict[str, Any]:
    """Three nodes of three kinds; a kind that Slurm lacks; one job requeued while it works."""
    daemons = start_slurm(out.parent)
    result: dict[str, Any] = {"engine": "slurm", "nodes": len(KINDS)}
    requeued: list[str] = []

    def requeue(line: str) -> None:
        if f"{KILLED} vim_nano started on job" in line and not requeued:
            job = line.rsplit("job ", 1)[1].strip()
            time.sleep(8.0)
            subprocess.run(["scontrol", "requeue", job], check=False)
            requeued.append(job)
            print(f"   requeued job {job}", flush=True)

    try:
        code, lines = follow(fleet(out.with_name("lacking"), "--engine", "slurm", kinds="rtx3090"))
        result["lacking kind"] = {"exit code": code, "said": any("sbatch refused" in line for line in lines)}
        start = time.monotonic()
        code, _ = follow(fleet(out, "--engine", "slurm"), requeue)
        result |= {"seconds": round(time.monotonic() - start, 1), "exit code": code, "requeued": requeued, **verify(out)}
    finally:
        stop(daemons)
    return result


def local_exercise(out: Path) -> dict[str, Any]:
    """submitit's local executor: the same code path, without queues."""
    start = time.monotonic()
    code, _ = follow(fleet(out, "--engine", "slurm", "--cluster", "local"))
    return {"engine": "submitit local", "seconds": round(time.monotonic() - start, 1), "exit code": code, **verify(out)}


def main() -> int:
    """Run one exercise in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("ray", "slurm", "local"))
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(ROOT))
    folder = Path(tempfile.mkdtemp(prefix="rmeeto-fleet-"))
    exercises = {"ray": ray_exercise, "slurm": slurm_exercise, "local": local_exercise}
    try:
        result = exercises[arguments.engine](folder / "out")
    finally:
        if arguments.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    lacking = result.get("lacking kind", {"exit code": 6, "said": True}) == {"exit code": 6, "said": True}
    noticed = result.get("seconds until the loss was noticed", 0) is not None
    good = (
        noticed
        and result["exit code"] == 0
        and not result["lost"]
        and not result["doubled"]
        and lacking
        and not result.get("orphans")
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
