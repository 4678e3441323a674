"""The GitHub workflows: well-formed, safe for a self-hosted runner, and in step with the command line they call."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmeeto_bench.cli.main import COMMANDS
from rmeeto_bench.records.comparison import EXIT_CODES

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
NAMES = ("tests", "contributions", "gpu-regression", "gpu-nightly")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the workflows are not part of this distribution")
TOP = {"name", "on", "permissions", "concurrency", "jobs", "env"}
JOB = {"if", "runs-on", "timeout-minutes", "strategy", "env", "steps", "needs", "permissions"}
STEP = {"name", "id", "if", "uses", "with", "run", "env"}


def load(name: str) -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}  # YAML 1.1 reads `on` as a boolean


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in load(name)["jobs"].values() for step in job["steps"]]


def scripts(name: str) -> list[str]:
    return [step["run"] for step in steps(name) if "run" in step]


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_parts_of_a_workflow_and_no_others(name: str) -> None:
    workflow = load(name)
    assert {"name", "on", "permissions", "concurrency", "jobs"} <= set(workflow) <= TOP
    for job in workflow["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job) <= JOB
        for step in job["steps"]:
            assert set(step) <= STEP
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("name", NAMES)
def test_no_untrusted_text_is_pasted_into_a_script(name: str) -> None:
    """`${{ }}` in a script is expanded before the shell reads it: a branch's name could be a command."""
    assert not any("${{" in script for script in scripts(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_valid_shell(name: str) -> None:
    for script in scripts(name):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("name", ["gpu-regression", "gpu-nightly"])
def test_a_gpu_is_measured_by_one_job_at_a_time_and_not_for_strangers(name: str) -> None:
    workflow = load(name)
    assert workflow["concurrency"] == {"group": "gpu-bench", "cancel-in-progress": False}
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == ["self-hosted", "gpu"]
    assert set(workflow["on"]) <= {"pull_request", "workflow_dispatch", "schedule"}
    if "pull_request" in workflow["on"]:
        assert workflow["on"]["pull_request"]["types"] == ["labeled"]
        assert "label.name == 'gpu'" in job["if"]


def test_only_the_history_may_write() -> None:
    assert load("tests")["permissions"] == load("gpu-regression")["permissions"] == {"contents": "read"}
    assert load("gpu-nightly")["permissions"] == {"contents": "write"}


def test_every_command_line_in_the_workflows_is_one_we_take() -> None:
    checked = 0
    for name in NAMES:
        for line in "\n".join(scripts(name)).splitlines():
            found = re.search(r"(?<![\w/-])rmeeto-bench ([^|;]*)", line)
            if found is None or "echo" in line:
                continue
            words = shlex.split(found.group(1))
            command = words.pop(0) if words[0] in COMMANDS else "run"
            parser = argparse.ArgumentParser(exit_on_error=False)
            importlib.import_module(f"rmeeto_bench.cli.commands.{command}").add_arguments(parser)
            assert parser.parse_args(words)
            checked += 1
    assert checked == 5


def gate_step(code: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The gate's step with a stand-in for rmeeto-bench that exits with `code`, in the shell that the runner uses."""
    (script,) = (step["run"] for step in steps("gpu-regression") if step.get("id") == "gate")
    command = tmp_path / "rmeeto-bench"
    command.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    command.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BASE": "origin/main", "GITHUB_OUTPUT": str(tmp_path / "output")}
    return subprocess.run(["bash", "-e", "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6])
def test_only_a_regression_or_a_mistake_is_red(code: int, tmp_path: Path) -> None:
    done = gate_step(code, tmp_path)
    assert done.returncode == (code if code in (2, EXIT_CODES["FAIL"]) else 0)
    assert ("::warning::" in done.stdout) == (code in (4, 5, 6))
    assert (tmp_path / "output").read_text() == f"code={code}\n"


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint")
def test_actionlint_has_no_complaint() -> None:
    done = subprocess.run(["actionlint", *map(str, FOLDER.glob("*.yml"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
