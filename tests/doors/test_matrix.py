"""Every command and every flag through the door that people take: a fresh process, on what other commands wrote.

A row of the table is a command line with, for each of its flags, a check of what that flag changed. A command or a flag that no
row exercises fails `test_every_command_and_flag_has_a_row`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from machines import MACHINES
from measuring import MEASURING
from publishing import PUBLISHING
from reading import READING
from world import World, furnish

from rmeeto_bench.cli.main import COMMANDS
from rmeeto_bench.version import __version__

ROWS = {row.name: row for row in (*MEASURING, *MACHINES, *READING, *PUBLISHING)}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, brief: Path) -> World:
    root = tmp_path_factory.mktemp("doors")
    furnish(root, brief)
    return World(root, ROWS)


@pytest.mark.parametrize("name", list(ROWS))
def test_a_row(name: str, world: World) -> None:
    done = world.done(name)
    said = f"{done.row.line}\n{done.out}\n{done.err}"
    assert done.code == done.row.code, said
    assert "Traceback" not in done.err, said
    assert done.says(done.row.says), said
    if done.row.refusal:
        assert len(done.err.splitlines()) == 1, said
        assert done.warns(done.row.refusal), said
    for flag, check in done.row.shows.items():
        assert check(done), f"{flag} did not do what it should in: {said}"


def flags(command: str) -> dict[str, argparse.Action]:
    """Flag, each of its spellings, or positional argument -> what the command's parser makes of it."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"rmeeto_bench.cli.commands.{command}").add_arguments(parser)
    named = {option: action for action in parser._actions for option in action.option_strings}
    return named | {action.dest: action for action in parser._actions if not action.option_strings}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_and_flag_has_a_row(command: str) -> None:
    rows = [row for row in ROWS.values() if row.command == command]
    assert rows, f"no row runs {command}"
    wanted = flags(command)
    shown = {flag for row in rows for flag in row.shows}
    assert not shown - set(wanted), "rows show what the command does not have"
    missing = [flag for flag in wanted if flag not in shown]
    assert not missing, f"no row shows what these change: {', '.join(missing)}"


def test_a_row_shows_what_its_line_says() -> None:
    """A flag is shown by a row whose command line has it, or by the contrast with one that has it."""
    for row in ROWS.values():
        known = flags(row.command)
        before = [ROWS[need].line for need in row.needs]
        for flag in row.shows:
            if known[flag].option_strings:
                assert any(flag in line.split() for line in (row.line, *before)), f"{row.name} does not give {flag}"
        assert row.shows or row.refusal or row.says, f"{row.name} checks nothing"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_and_version_of_each_command(command: str) -> None:
    """Help names the command's purpose and every flag, and both answer without an import of torch."""

    def typed(word: str, **variables: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-P", "-m", "rmeeto_bench", command, word]
        return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)

    shown = typed("--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0
    assert not re.search(r"\| +torch$", shown.stderr, re.MULTILINE)
    text = re.sub(r"\s+", " ", shown.stdout)
    assert COMMANDS[command] in text
    shown_flags = [flag for flag, action in flags(command).items() if action.help != argparse.SUPPRESS]  # others are refused
    assert all(flag in text for flag in shown_flags if flag.startswith("-")), shown.stdout
    version = typed("--version")
    assert (version.returncode, version.stdout) == (0, f"rmeeto-bench {__version__}\n")
    wrong = typed("--nonsense")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
