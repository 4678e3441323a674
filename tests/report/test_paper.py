"""The paper's tables and figures: complete, published values untouched, and only what is valid beside them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pylatexenc.latexwalker import LatexWalker, LatexWalkerParseError
from sample_runs import arms, cpu_run, record, two_gpus

from rmeeto_bench import published as reference
from rmeeto_bench.cost.flops import published_gflops
from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.models.sizes import config
from rmeeto_bench.records.run import DeviceRecord, Estimate, RunRecord
from rmeeto_bench.reduction.config import ReductionConfig
from rmeeto_bench.reduction.schedule import token_counts
from rmeeto_bench.report.figures.style import render
from rmeeto_bench.report.paper.figures import DRAW, GPUS, ours
from rmeeto_bench.report.paper.item import Ours, PaperLine, PaperTable
from rmeeto_bench.report.paper.read_ablations import load_ablations
from rmeeto_bench.report.paper.registry import TABLES, chosen, fill
from rmeeto_bench.report.paper.render import VALUES, csv_text, html, latex, markdown
from rmeeto_bench.report.paper.sources import Sources, gather
from rmeeto_bench.report.run.tables import DASH

HOSTILE = '<script>alert("x")</script>_{}%&|#$~^\\'
NAMES = list(TABLES)


def gflops(model: str, r: int, placement: str) -> float | None:
    try:
        return published_gflops(config(model), ReductionConfig(r=r, placement=placement))
    except UsageError:
        return None


def table(name: str, *runs: RunRecord) -> PaperTable:
    return fill(TABLES[name], gather(runs, gflops))


def with_ours(filled: PaperTable) -> list[PaperLine]:
    return [line for line in filled.lines if line.ours is not None]


def hostile_run() -> RunRecord:
    run = two_gpus()
    devices = tuple(replace(device, name=f"{device.name} {HOSTILE}") for device in run.devices)
    arm = replace(run.arms[1], verdict="NOT_STEADY", verdict_detail=HOSTILE)
    data = {"vim_small": {"name": HOSTILE}}
    return replace(run, devices=devices, arms=(run.arms[0], arm, *run.arms[2:]), data=data)


def test_there_are_23_tables_and_no_published_number_is_lost_or_changed() -> None:
    assert {int(name.rstrip("ab")) for name in NAMES} == set(range(1, 24))
    assert {name for name in NAMES if not name.isdigit()} == {"1a", "1b", "5a", "5b"}
    for name in NAMES:
        published = [row.value for row in reference.rows() if row.table == name]
        shown = [line.published for line in table(name).lines]
        assert shown == (published or [None] * 4), name
    assert sum(len(table(name).lines) for name in NAMES if name != "5a") == sum(
        not row.table.startswith("Fig") for row in reference.rows()
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_two_lines_of_a_table_are_about_the_same_number(name: str) -> None:
    keys = [line.keys for line in table(name).lines]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_at_hand_a_line_says_what_is_lacking(name: str) -> None:
    bare = fill(TABLES[name], Sources())
    if name == "10":
        assert bare.found == len(bare.lines)
    else:
        assert bare.found == 0
        assert TABLES[name].absent in bare.state
        assert markdown(bare).count(f"| {DASH} | {DASH} | {DASH} |") == len(bare.lines)


def check_latex(text: str, columns: int) -> None:
    """Parses strictly, environments close in order, and every row has as many cells as the column specification."""
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    open_environments: list[str] = []
    for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(environment)
        else:
            assert open_environments.pop() == environment
    assert not open_environments
    assert text.count(r"\begingroup") == text.count(r"\endgroup") == 1
    specification = re.search(r"\\begin\{longtable\}\{(l*r*)p\{0\.25\\linewidth\}\}", text)
    assert len(specification.group(1)) + 1 == columns
    body = text.split(r"\begin{longtable}")[1].split(r"\end{longtable}")[0]
    rows = [row for row in body.splitlines() if row.endswith(r"\\") and not row.startswith(r"\caption*")]
    assert len(rows) > 2
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
    plain = re.sub(r"\\[&%#_${}]|\\text\w+\{\}", "", text)
    assert not re.search(r"[%#~^_]", plain)
    assert not re.search(r"[<>|]", re.sub(r"\$[<>|]\$", "", plain))
    assert plain.isascii()


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_sound_whatever_the_names(name: str) -> None:
    filled = table(name, hostile_run())
    check_latex(latex(filled), len(filled.columns) + len(VALUES))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_all_tables_compile(tmp_path: Path) -> None:
    tables = "\\clearpage\n".join(latex(table(name, hostile_run(), cpu_run())) for name in NAMES)
    preamble = r"\documentclass{article}\usepackage[landscape]{geometry}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "all.tex").write_text(f"{preamble}\n{tables}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 50_000


def test_the_latex_check_can_fail() -> None:
    good = latex(table("10"))
    for broken in (
        good.replace(r"\end{itemize}", ""),
        good.replace(r"{0.14}", r"{0.14} & {1}"),
        good.replace(r"{0.14}", r"{0.14 %}"),
        good.replace(r"{0.14}", r"{0.14"),
    ):
        with pytest.raises((AssertionError, LatexWalkerParseError)):
            check_latex(broken, 6)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag != "script"
        assert not any(name in ("src", "href") for name, _ in attrs)
        self.cells += tag == "td"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["5a", "12", "21"])
def test_pages_are_whole_and_escape_what_they_are_given(name: str) -> None:
    filled, page = table(name, hostile_run()), Page()
    page.feed(html(filled))
    assert not page.open
    assert page.cells == len(filled.lines) * (len(filled.columns) + len(VALUES))


@pytest.mark.parametrize("name", ["2", "10", "12"])
def test_csv_and_markdown_are_rectangular(name: str) -> None:
    filled = table(name, hostile_run())
    rows = list(csv.DictReader(io.StringIO(csv_text(filled))))
    assert [float(row["published"]) for row in rows] == [line.published for line in filled.lines]
    assert sum(bool(row["ours"]) for row in rows) == filled.found
    lines = [line for line in markdown(filled).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_ours_stand_beside_the_same_gpu_with_deviation_interval_and_match() -> None:
    filled = table("12", two_gpus())
    found = [line for line in markdown(filled).splitlines() if "| 11 | throughput (im/s) | RTX 4090 |" in line]
    assert found == [
        "| fp16 | 11 | throughput (im/s) | RTX 4090 | 1701 | 1690 [1682, 1698] | -0.6 [-1.1, -0.1] % | "
        "same GPU kind (NVIDIA GeForce RTX 4090); other kernels (chunked) |"
    ]
    # The H200 of this run is none of the six, so its 4 arms give no throughput.
    assert sum(line.unit == "im/s" for line in with_ours(filled)) == 4
    assert "| 80.5 | 80.50 [80.15, 80.85] | 0.00 [-0.35, +0.35] | as many images (val, 50000 images) |" in markdown(filled)


def test_computed_columns_meet_the_published_ones() -> None:
    for name, unit, tolerance in (("10", "fraction", 0.005), ("2", "G", 0.011)):
        lines = [line for line in with_ours(table(name)) if line.unit == unit]
        assert len(lines) >= 7
        for line in lines:
            assert line.ours.value == pytest.approx(line.published, abs=tolerance)
    odd = [line for line in with_ours(table("21")) if line.unit == "G" and "odd" in line.keys[1] and "FLOPs (G)" in line.keys]
    assert [round(line.ours.value, 3) for line in odd if line.ours] == [1.269, 3.445]
    assert all(line.ours.value == pytest.approx(line.published, abs=0.006) for line in odd if line.ours)


@pytest.mark.parametrize("verdict", ["EXPLORATORY", "NOT_STEADY", "PRECISION_NOT_REACHED", "SIMULATED", "OOM"])
def test_only_valid_arms_enter(verdict: str) -> None:
    run = two_gpus()
    refused = replace(run, arms=tuple(replace(arm, verdict=verdict, verdict_detail="why") for arm in run.arms))
    sources = gather([refused])
    assert sources.arms == ()
    assert len(sources.left_out) == 1
    assert verdict in sources.left_out[0]
    assert all(f"vim_small/r{r}" in sources.left_out[0] for r in (0, 5, 11, 20))


def test_a_simulated_device_never_enters_whatever_its_verdict() -> None:
    run = two_gpus()
    simulated = replace(run, devices=tuple(replace(device, kind="sim") for device in run.devices))
    sources = gather([simulated])
    assert sources.arms == ()
    assert "SIMULATED" in sources.left_out[0]


def test_the_bundled_model_stands_in_under_its_own_name() -> None:
    filled = table("1b", cpu_run())
    assert filled.found == 3
    assert "ours for 3 (3 stand-ins)" in filled.state
    for line in with_ours(filled):
        assert line.ours.match.startswith("stand-in vim_nano for Vim-S; other data")
    assert "| 80.0 | 79.90 [79.55, 80.25] | — | stand-in" in markdown(filled)
    both = table("1b", cpu_run(), two_gpus())  # the model itself goes before its stand-in
    assert "stand-in" not in markdown(both).split("| 5 | top-1 (%) | 80.0 |")[1].splitlines()[0]


def test_an_ablation_takes_only_the_row_of_the_method_itself() -> None:
    run = two_gpus()
    for name, setting in (("4", "yes"), ("7", "cosine"), ("15", "1"), ("16", "2"), ("17", "sum"), ("20", "odd-even")):
        lines = with_ours(table(name, run))
        assert lines, name
        assert all(setting in line.keys for line in lines), name
    assert with_ours(table("5b", run)) == with_ours(table("9", run)) == []
    assert not any("pruning" in line.keys for line in with_ours(table("1a", run)))


def ablations(folder: Path, **settings: object) -> Path:
    known = {"model": "vim_nano", "r": 11, "data": "Fashion-MNIST test", "images": 700, "weights_r": 0, **settings}
    top1 = {"value": 70.0, "low": 66.0, "high": 74.0}
    names = (
        ("distance", "cosine"),
        ("distance", "l1"),
        ("mode", "amax"),
        ("random-pair", "random pair"),
        ("shuffle", "prune, 0.3 shuffled"),
    )
    rows = [
        {"study": study, "label": label, "top1": top1, "spread": 0.5 if "random" in study else None} for study, label in names
    ]
    path = folder / "made.json"
    path.write_text(json.dumps({"settings": known, "rows": rows}), encoding="utf-8")
    return path


def test_ablations_stand_beside_the_training_free_rows_of_their_setting(tmp_path: Path) -> None:
    def keys(name: str, **settings: object) -> list[tuple[str, ...]]:
        sources = gather([], ablated=load_ablations([ablations(tmp_path, **settings)]))
        return [line.keys for line in with_ours(fill(TABLES[name], sources))]

    assert [key for key in keys("7") if "l1" in key]
    assert all("training-free" in key and ("l1" in key or "cosine" in key) for key in keys("7"))
    assert len(keys("17")) == len(keys("5b")) == 1
    assert len(keys("23")) == 6  # top-1 and spread at r = 11 for Ti, S and B
    assert keys("4") == []  # the paper re-trained each of these
    assert keys("7", r=5) != keys("7")
    assert keys("7", weights_r=11) == []
    ablations(tmp_path)
    (line,) = with_ours(fill(TABLES["17"], gather([], ablated=load_ablations([tmp_path]))))
    assert line.ours == Ours(
        70.0, "stand-in vim_nano for Vim-S; ablate on Fashion-MNIST test, 700 images", 66.0, 74.0, comparable=False
    )
    own = gather([], ablated=load_ablations([ablations(tmp_path, model="vim_small")]))
    assert all(line.ours.comparable for line in with_ours(fill(TABLES["7"], own)) if line.ours)


def test_a_file_that_is_no_ablation_is_named(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"settings": {}, "rows": 3}', '{"settings": {"model": "x"}, "rows": [{}]}', "[" * 100_000):
        (tmp_path / "bad.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"bad.json is no file of `rmeeto-bench ablate"):
            load_ablations([tmp_path / "bad.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no .json"):
        load_ablations([tmp_path / "empty"])


def odd_run() -> RunRecord:
    device = DeviceRecord("cuda:a", "NVIDIA H200", "cuda", "h200")
    found = arms("cuda:a", "vim_small", {0: 100.0, 5: 110.0, 20: 200.0}, weights="training-free")
    odd = tuple(replace(arm, token_counts=token_counts(ReductionConfig(r=arm.r, placement="odd"))) for arm in found)
    return record((device,), odd)


def test_tokens_tell_odd_from_even_blocks() -> None:
    assert with_ours(table("18", odd_run()))
    assert [line.keys[:2] for line in with_ours(table("18", odd_run()))] == [("merging", "5"), ("merging", "20")]
    assert not with_ours(table("1a", odd_run()))
    assert not with_ours(table("18", two_gpus()))
    strange = replace(odd_run(), arms=tuple(replace(arm, token_counts=(197, 100) * 12) for arm in odd_run().arms))
    assert "none of the paper's schedules" in gather([strange]).left_out[0]


def test_the_drop_is_the_paired_difference_turned_around() -> None:
    run = two_gpus()
    changed = replace(run, arms=tuple(replace(a, delta_top1=Estimate(-1.0, -1.5, -0.2)) if a.r == 11 else a for a in run.arms))
    (line,) = [
        line
        for line in with_ours(table("2", changed))
        if line.keys[0] == "Vim-S" and "drop of top-1 (pp)" in line.keys and "R-MeeTo" in line.keys
    ]
    assert (line.ours.value, line.ours.low, line.ours.high) == (1.0, 0.2, 1.5)


def test_the_latest_run_wins() -> None:
    later = replace(
        two_gpus(),
        created_utc="2026-02-01T00:00:00Z",
        arms=tuple(replace(arm, images_per_second=Estimate(99.0)) for arm in two_gpus().arms),
    )
    for runs in ((two_gpus(), later), (later, two_gpus())):
        rates = {line.ours.value for line in with_ours(table("12", *runs)) if line.ours and line.unit == "im/s"}
        assert rates == {99.0}


def test_disagreements_of_the_paper_are_noted_where_they_are() -> None:
    for name, words in {
        "2": "1.50 and 5.10",
        "21": "1.50 and 5.10",
        "3": "4.2 here",
        "4": "9.2 and 6.5",
        "8": "500 images",
        "9": "2.7",
        "11": "80.3",
        "12": "1.2, not 1.3",
        "13": "9.44",
        "16": "not held constant",
        "18": "odd blocks",
    }.items():
        assert words in markdown(table(name)), name


def test_figure_4_needs_published_numbers_only_and_takes_ours_over_them() -> None:
    (axes,) = DRAW["fig4"](Sources(), "screen").axes
    assert {text.get_text() for text in axes.texts} == set(GPUS)
    assert list(axes.lines[0].get_xdata()) == [1954, 1757, 2020, 2158, 2254, 2446]
    assert list(axes.lines[0].get_ydata()) == [80.5, 79.9, 79.4, 79.3, 78.3, 76.5]
    sources = gather([two_gpus()])
    assert ours("fig4", sources) == 8
    (axes,) = DRAW["fig4"](sources, "screen").axes
    mine, foreign = (drawn for drawn in axes.containers if drawn.lines[0] is not None)
    assert list(mine.lines[0].get_xdata()) == [1480, 1372, 1690, 2200]
    slow = replace(two_gpus(), arms=tuple(replace(arm, precision="fp32") for arm in two_gpus().arms))
    assert ours("fig4", gather([slow])) == 0
    assert "ours, H200" in {text.get_text() for text in axes.texts}
    assert list(foreign.lines[0].get_xdata()) == [5000, 5600, 6900, 9800]


def test_figure_1b_draws_three_methods_and_ours() -> None:
    (axes,) = DRAW["fig1b"](Sources(), "screen").axes
    assert [len(line.get_xdata()) for line in axes.lines if line.get_linestyle() not in ("None", ":")] == [4, 4, 4]
    assert ours("fig1b", gather([two_gpus()])) == 3
    assert ours("fig1b", gather([cpu_run()])) == 0


@pytest.mark.parametrize("name", list(DRAW))
def test_figures_are_the_same_bytes_every_time(name: str) -> None:
    first, second = (render(DRAW[name](gather([two_gpus()]), "paper"), "pdf", "paper") for _ in range(2))
    assert first == second
    assert len(first) > 5000


def test_items_go_by_several_names() -> None:
    tables, figures = chosen(["12", "Table1a", "tab5b", "fig4"])
    assert ([item.name for item in tables], figures) == (["12", "1a", "5b"], ["fig4"])
    with pytest.raises(UsageError, match="no item '24'"):
        chosen(["24"])
