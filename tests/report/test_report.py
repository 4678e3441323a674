"""Tables, sentences, figure and page of stored runs."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console
from sample_runs import arms, cpu_run, record, two_gpus

from rmeeto_bench.records.run import DeviceRecord, Estimate, RunRecord
from rmeeto_bench.report.figures.kinds import speed_accuracy
from rmeeto_bench.report.figures.style import render
from rmeeto_bench.report.plain import tex
from rmeeto_bench.report.run.html import html
from rmeeto_bench.report.run.summary import sentences, story
from rmeeto_bench.report.run.tables import latex, markdown, plain_rows, rich_table, to_frame

HOSTILE = '<script>alert("x")</script>_{}%&'


def printed(run: RunRecord, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for device in run.devices:
        for table in rich_table(run, device.id, width):
            console.print(table)
    return console.export_text()


def without_accuracy() -> RunRecord:
    known = arms("cpu", "vim_nano", {0: 100.0, 5: 90.0, 20: 150.0}, accuracy=False, weights="random")
    return record((DeviceRecord("cpu", "Some CPU", "cpu"),), known)


def unmeasured() -> RunRecord:
    """Interrupted: the last arm has no values at all."""
    run = cpu_run()
    last = replace(
        run.arms[-1], images_per_second=None, speedup=None, top1=None, delta_top1=None, verdict="OOM", verdict_detail="too big"
    )
    noisy = replace(run.arms[-2], weights="training-free", verdict="PRECISION_NOT_REACHED", verdict_detail="noise")
    run = replace(run, arms=(*run.arms[:-2], noisy, run.arms[-1]))
    return replace(run, arms=(*run.arms[:-1], last), status="interrupted")


def test_the_caption_counts_one_model_as_one() -> None:
    run = cpu_run()
    alone = replace(run, arms=tuple(replace(arm, baseline=run.arms[0].arm) for arm in run.arms))
    assert " · 1 model over " in printed(alone, 200)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("make", [cpu_run, two_gpus, without_accuracy, unmeasured])
def test_the_table_fits_its_terminal_and_holds_every_number(make, width: int) -> None:
    run = make()
    text = printed(run, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for arm in run.arms:
        if arm.speedup:
            assert f"{arm.speedup.value:.3f}x" in text
        if arm.top1:
            assert f"{arm.top1.value:.2f}" in text


def test_wide_tables_show_the_published_value_and_the_deviation() -> None:
    assert "1470 (+1 %)" in printed(two_gpus(), 160)


def test_what_is_unknown_is_a_dash_and_never_a_number() -> None:
    assert "—" in markdown(without_accuracy())
    frame = to_frame(without_accuracy())
    assert frame["top1"].isna().all()
    row = markdown(unmeasured()).splitlines()[-1]
    assert row.count("—") >= 4
    assert "OOM" in row


def test_the_frame_has_one_row_per_arm_and_intervals_beside_values() -> None:
    frame = to_frame(two_gpus())
    assert len(frame) == 8
    assert {"speedup", "speedup_low", "speedup_high", "gflops_paper", "paper_speedup"} <= set(frame.columns)
    assert frame.loc[frame.r == 11, "speedup"].iloc[0] == pytest.approx(1690 / 1480)


def test_the_sentence_names_the_fastest_good_arm_and_the_break_even() -> None:
    (conclusion, *notes) = sentences(cpu_run())
    assert "no ratio is shown to be faster than the baseline and within 1 point of its top-1" in conclusion
    assert "not resolved for ratio 0.28" in conclusion  # -0.9 [-1.1, -0.7] points
    assert "merging pays from ratio 0.28 on, slower at ratio 0.14" in conclusion  # the record has no interval of break-even
    assert any("slower than no merging: ratio 0.14" in note for note in notes)


def test_the_sentence_invents_no_accuracy() -> None:
    assert "accuracy is unknown" in sentences(without_accuracy())[0]
    run = cpu_run()
    hopeless = replace(run, arms=tuple(replace(a, delta_top1=a.delta_top1 and Estimate(-9.0, -9.2, -8.8)) for a in run.arms))
    assert "no ratio is shown to be faster than the baseline and within 1 point of its top-1" in sentences(hopeless)[0]


def test_a_page_that_is_too_narrow_cuts_details_off_and_no_verdict() -> None:
    measured = [replace(arm, verdict="OOM", calibration_error=1.0, agreement=99.0) for arm in cpu_run().arms]
    columns, _ = plain_rows(measured, every=True)
    assert columns[-3:] == ["verdict", "same %", "ECE"]


def test_verdicts_come_with_their_remedy() -> None:
    assert "  OOM: too big" in sentences(unmeasured())


def test_latex_is_balanced_and_escaped() -> None:
    text = latex(replace(cpu_run(), devices=(DeviceRecord("cpu", HOSTILE, "cpu"),)))
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"\textless" not in text
    assert r"\_\{\}\%\&" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len({line.count(" & ") for line in body}) == 1
    assert tex("Δ 5 % — a_b") == r"$\Delta$ 5 \% --- a\_b"


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]


def test_the_page_is_self_contained_and_escapes_what_it_is_given() -> None:
    text = html(replace(cpu_run(), argv=(HOSTILE,), devices=(DeviceRecord("cpu", HOSTILE, "cpu"),)))
    page = Page()
    page.feed(text)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in text
    assert 'alert("' not in text
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert {"svg", "table", "details"} <= set(page.tags)
    assert page.tags.count("tr") == 1 + len(cpu_run().arms)
    assert len(page.ids) == len(set(page.ids)), "figures of one page must not share ids"


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
@pytest.mark.parametrize("style", ["screen", "paper"])
def test_figures_are_the_same_bytes_every_time(kind: str, style: str) -> None:
    first, second = (render(speed_accuracy([two_gpus()], style), kind, style) for _ in range(2))
    assert first == second
    assert len(first) > 5000


def test_the_figure_draws_what_is_known() -> None:
    (axes,) = speed_accuracy([two_gpus()]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("images/s (labels: reduction ratio)", "top-1 (%)")
    assert {text.get_text() for text in axes.texts} == {"RTX 4090", "H200", "0.00", "0.14", "0.31", "0.54"}
    (speed_only,) = speed_accuracy([without_accuracy()]).axes
    assert (speed_only.get_xlabel(), speed_only.get_ylabel()) == ("reduction ratio", "speed-up over no merging")
    nothing = replace(cpu_run(), arms=(replace(unmeasured().arms[-1]),))
    for empty in (nothing, replace(cpu_run(), arms=())):
        assert [text.get_text() for text in speed_accuracy([empty]).axes[0].texts] == ["nothing to compare with r = 0"]


def test_what_all_devices_say_is_said_once() -> None:
    run = two_gpus()
    told = story(run)
    assert told.headlines[0].startswith("vim_small: merging pays on both devices; the fastest ratio within 1 point of top-1")
    assert set(told.conclusions) == {("cuda:a", "vim_small"), ("cuda:b", "vim_small")}
    twins = replace(run, arms=tuple(arm for arm in run.arms if arm.device == "cuda:a"))
    twins = replace(twins, arms=(*twins.arms, *(replace(arm, device="cuda:b") for arm in twins.arms)))
    (line,) = story(twins).headlines
    assert line.startswith("vim_small on each of 2 devices: no ratio is shown to be faster")
    assert not story(twins).conclusions
    assert len([note for note in story(twins).notes if "slower than no merging" in note]) == 1


@pytest.mark.parametrize(("count", "folded"), [(2, 0), (3, 3), (20, 21)])
def test_the_tables_of_more_than_two_devices_are_folded(count: int, folded: int) -> None:
    devices = tuple(DeviceRecord(f"cuda:{i}", f"GPU {i}", "cuda") for i in range(count))
    page = html(record(devices, tuple(a for d in devices for a in arms(d.id, "vim_small", {0: 100.0, 20: 150.0}))))
    assert page.count('<details class="device">') == folded
    assert page.count("<table>") == count
