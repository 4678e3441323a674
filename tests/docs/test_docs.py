"""The pages of docs/: every example runs, every command line is one we take, every link leads somewhere."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from rmeeto_bench.cli.main import COMMANDS, main
from rmeeto_bench.measure.verdict import INVALID, LABELS, REMEDIES
from rmeeto_bench.report.paper.registry import FIGURES, TABLES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
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
    for number, (_, text) in enumerate(blocks(page, "python")):
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
            other = (DOCS / name).read_text(encoding="utf-8") if name else page.read_text(encoding="utf-8")
            heads = {
                re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", other, re.MULTILINE)
            }
            assert not anchor or anchor in heads, target


def test_the_index_has_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in PAGES if page.stem != "index")


def test_every_verdict_and_label_is_explained() -> None:
    text = (DOCS / "trust.md").read_text(encoding="utf-8")
    assert [code for code in (*REMEDIES, *INVALID, *LABELS) if code not in text] == []


def test_every_table_and_figure_has_its_way() -> None:
    text = (DOCS / "reproducing.md").read_text(encoding="utf-8")
    items = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for name in row.split(",")}
    assert {*TABLES, *FIGURES} <= items


def test_no_page_is_longer_than_a_page() -> None:
    assert {page.name: count for page in PAGES if (count := page.read_text(encoding="utf-8").count("\n")) > 130} == {}
