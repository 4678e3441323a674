"""README and docs/: every example runs, every command line is one we take, every name is one that exists."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
from pathlib import Path

import pytest

import rmeeto_bench
from rmeeto_bench.cli.main import COMMANDS, main
from rmeeto_bench.measure.verdict import INVALID, LABELS, REMEDIES
from rmeeto_bench.report.paper.registry import FIGURES, TABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not part of this distribution")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(what stands behind the language, text) of each code block."""
    return [(rest.strip(), text) for found, rest, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> list[list[str]]:
    lines = [line for _, text in blocks(page, "bash") for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("rmeeto-bench")]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, text in blocks(page, "toml"):
        path = Path(text.splitlines()[0].removeprefix("# "))  # the first line of such a block names its file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for number, (mark, text) in enumerate(blocks(page, "python")):
        if mark == "slow":  # minutes on a processor: the simulated device shows the same
            text = text.replace("BenchPlan(", 'BenchPlan(gpus="sim:v100", ')
        exec(compile(text, f"{page.name}, example {number + 1}", "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_line_is_one_we_take(page: Path) -> None:
    for words in commands(page):
        command = words.pop(0) if words and words[0] in COMMANDS else "run"
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"rmeeto_bench.cli.commands.{command}").add_arguments(parser)
        try:
            parser.parse_args(words)
        except SystemExit:
            pytest.fail(f"{page.name}: rmeeto-bench {command} {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_marked_to_run_do(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for mark, text in blocks(page, "bash"):
        if mark == "run":
            for line in text.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in heads(other), target


def heads(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in found}


def flags() -> set[str]:
    """Every flag of every command."""
    found: set[str] = set()
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"rmeeto_bench.cli.commands.{command}").add_arguments(parser)
        found |= {word for action in parser._actions for word in action.option_strings}
    return found


OTHERS = {"--rdzv-backend", "--rdzv-endpoint", "--nproc-per-node", "--nnodes", "--max-restarts"}  # torchrun's


def flags_of_scripts() -> set[str]:
    paths = (*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests" / "kernels" / "compile_kernels.py")
    scripts = "".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r'"(--[a-z][\w-]+)"', scripts))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_files_and_names_exist(page: Path) -> None:
    text = re.sub(r"^pip install.*$|.*(?:ruff|pytest).*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    unknown = (
        set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - flags() - OTHERS - flags_of_scripts() - {"--version", "--help"}
    )
    assert unknown == set()
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in re.findall(rf"(?<![\w/.])((?:{folders})/[\w./-]*[\w/])", text):
        # a path in capitals, or of a folder that only a run makes, is an example
        example = re.search("[A-Z]{3}", path.rpartition("/")[2]) or path.startswith("runs/") or f"# {path}\n" in text
        if not example:
            assert (ROOT / path).exists(), path
    for name in set(re.findall(r"\brb\.(\w+)", text)):
        assert hasattr(rmeeto_bench, name), name
    for module in set(re.findall(r"from (rmeeto_bench[\w.]*) import", text)):
        importlib.import_module(module)


def test_the_gallery_shows_the_runs_in_results(tmp_path: Path) -> None:
    page = tmp_path / "results" / "README.md"
    assert main(["ls", str(ROOT / "results"), "--gallery", str(page)]) == 0
    shown = page.read_text(encoding="utf-8").replace(os.path.relpath(ROOT / "results", page.parent) + "/", "")
    assert shown == (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def test_the_index_has_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in PAGES if page.stem not in ("index", "README"))


def test_every_verdict_and_label_is_explained() -> None:
    text = (DOCS / "trust.md").read_text(encoding="utf-8")
    assert [code for code in (*REMEDIES, *INVALID, *LABELS) if code not in text] == []


def test_every_table_and_figure_has_its_way() -> None:
    text = (DOCS / "reproducing.md").read_text(encoding="utf-8")
    items = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for name in row.split(",")}
    assert {*TABLES, *FIGURES} <= items


def test_every_command_and_exit_code_is_listed() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {0, 2, 3, 4, 5, 6, 130}


def test_no_page_is_longer_than_a_page() -> None:
    assert {page.name: count for page in PAGES if (count := page.read_text(encoding="utf-8").count("\n")) > 130} == {}
    assert 70 <= (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 100
