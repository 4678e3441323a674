"""Figures of stored runs: what they draw, what they refuse, and the files they become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sample_runs import arms, cpu_run, record, two_gpus

from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.summary.raw import raw_of
from rmeeto_bench.cli.main import main
from rmeeto_bench.errors import DataError
from rmeeto_bench.fleet.join.archive import run_at
from rmeeto_bench.records.run import Block, DeviceRecord, Estimate, RunRecord, save
from rmeeto_bench.report.figures.curves import lines_of
from rmeeto_bench.report.figures.kinds import energy, kernel_times, retraining, speed_accuracy, speedup
from rmeeto_bench.report.figures.labels import at_points, short
from rmeeto_bench.report.figures.style import COLOURS, LINES, MARKERS, STYLES, render
from rmeeto_bench.report.figures.tokens import tokens
from rmeeto_bench.report.run.over_own import speedups_over_own

CHECK = {
    "provenance": {"device": "NVIDIA A100"},
    "kernels": {"scan": {"ms": 2.0, "share_of_bandwidth": 0.4}, "conv": {"ms": 0.3}},
}


def training_free(run: RunRecord) -> RunRecord:
    """The same run with the baseline's weights at every r: less accurate the more is merged."""

    def worse(arm):
        value = arm.top1.value - 0.5 * arm.r
        return replace(arm, weights="training-free", top1=Estimate(value, value - 0.4, value + 0.4)) if arm.r else arm

    return replace(run, run_id="free", arms=tuple(map(worse, run.arms)))


def joules(run: RunRecord) -> dict[tuple[str, str, str], Estimate]:
    return {(run.run_id, arm.device, arm.arm): Estimate(0.2, 0.19, 0.21) for arm in run.arms}


def sizes() -> RunRecord:
    """A model and its merged one at three image sizes, with a GPU's memory."""
    rates = {"vim_tiny": 300.0, "vim_tiny_256": 230.0, "vim_tiny_512": 50.0}
    rows = [
        arm
        for model, rate in rates.items()
        for arm in arms("cpu", model, {0: rate, 11: 1.3 * rate}, accuracy=False, peak_memory_mib=1e5 / rate)
    ]
    return record(cpu_run().devices, tuple(rows))


def every(style: str) -> dict[str, Figure]:
    return {
        "speed_accuracy": speed_accuracy([two_gpus()], style),
        "speedup": speedup([two_gpus(), cpu_run()], style),
        "retraining": retraining([cpu_run(), training_free(cpu_run())], style),
        "energy": energy([two_gpus()], style, joules(two_gpus())),
        "kernels": kernel_times([CHECK], style),
        "tokens": tokens([sizes()], style, speedups_over_own(sizes(), {})),
    }


@pytest.mark.parametrize("style", ["screen", "paper"])
def test_every_figure_is_the_same_bytes_every_time_and_a_column_wide_on_paper(style: str) -> None:
    for (name, first), second in zip(every(style).items(), every(style).values(), strict=True):
        assert render(first, "svg", style) == render(second, "svg", style), name
        if style == "paper":
            assert first.get_size_inches()[0] == pytest.approx(STYLES["paper"].width), name


def test_fonts_are_embedded_in_pdf() -> None:
    data = render(every("paper")["speedup"], "pdf", "paper")
    assert b"/FontFile2" in data
    assert b"/Type3" not in data


def test_curves_differ_in_colour_brightness_marker_and_line() -> None:
    """In grey, and to every kind of colour vision, at least the marker and the line style tell them apart."""
    assert len(set(COLOURS[:4])) == len(set(MARKERS[:4])) == len(set(LINES[:4])) == 4
    for colour in COLOURS:
        red, green, blue = to_rgb(colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75, "visible on white"


def test_the_speed_up_figure_names_its_curves_and_the_bound_and_has_no_legend() -> None:
    axes = speedup([two_gpus()], "screen").axes[0]
    assert {text.get_text() for text in axes.texts} == {"RTX 4090", "H200", "token bound,\n1 / (1 - ratio)"}
    assert axes.get_legend() is None
    assert axes.get_xlabel().endswith("(crosses: published)")
    bound = next(line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata()) == 41)  # type: ignore[arg-type]
    assert bound.get_ydata()[-1] == pytest.approx(1 / (1 - two_gpus().arms[3].reduction_ratio))  # type: ignore[index]


SIX = {
    "NVIDIA A100 PCIe 40 GB": 1046.0,
    "NVIDIA RTX A4000": 259.0,
    "NVIDIA H100 PCIe": 2507.0,
    "NVIDIA GeForce RTX 3090": 240.0,
    "NVIDIA GeForce RTX 4090": 557.0,
    "Tesla V100-SXM2-32GB": 421.0,
}


def devices(rates: dict[str, float], *, accuracy: bool) -> RunRecord:
    found = [(DeviceRecord(f"cuda:{i}", name, "cuda"), rate) for i, (name, rate) in enumerate(rates.items())]
    ups = {0: 1.0, 5: 0.93, 10: 1.07, 11: 1.11, 20: 1.48}
    rows = [
        arm
        for device, rate in found
        for arm in arms(device.id, "vim_small", {r: rate * up for r, up in ups.items()}, accuracy=accuracy)
    ]
    return record(tuple(device for device, _ in found), tuple(rows))


ROWS = {
    "one": {"Some CPU": 100.0},
    "six": SIX,
    "long": {f"A device of the maker with a long name, number {i}": 100.0 * 1.1**i for i in range(5)},
    "sixteen": {f"NVIDIA card {i}": 200 * 1.15**i for i in range(16)},
}


@pytest.mark.parametrize("style", ["screen", "paper"])
@pytest.mark.parametrize("accuracy", [True, False])
@pytest.mark.parametrize("name", list(ROWS))
def test_no_label_lies_on_another_or_under_an_error_bar_or_outside(name: str, *, accuracy: bool, style: str) -> None:
    figure = speed_accuracy([devices(ROWS[name], accuracy=accuracy)], style)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in axes.texts]
    names = {short(device, 22 if style == "screen" else 14) for device in ROWS[name] if name != "one"}
    assert {text for text, _ in boxes} >= names
    bars = [bar.get_transform().transform_path(path) for bar in axes.collections for path in bar.get_paths()]
    for i, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 + 1, text
        assert not [other for other, taken in boxes[:i] if taken.overlaps(box.shrunk(0.98, 0.9))], text
        assert not any(bar.intersects_bbox(box) for bar in bars), text


def test_labels_of_two_close_points_are_not_crossed() -> None:
    axes = Figure(figsize=(6.4, 4.2)).subplots()
    axes.set(xlim=(120, 450), ylim=(-5, 105))
    points = {"0.00": (160.0, 89.0), "0.31": (162.0, 87.5)}
    at_points(axes, [(name, *point) for name, point in points.items()])
    places = axes.transData.transform(list(points.values()))
    for own, text in enumerate(axes.texts):
        box = Text.get_window_extent(text)
        assert np.linalg.norm(places - places.clip(box.min, box.max), axis=1).argmin() == own


def test_over_the_tokens_each_model_and_ratio_is_one_line_through_its_sizes() -> None:
    figure = tokens([sizes()], "paper", speedups_over_own(sizes(), {}))
    lines = [[line for line in axes.lines if line.get_linestyle() in ("-", "--")] for axes in figure.axes]
    rates, (*gain, _), memory = lines  # and the line of no gain
    assert [list(line.get_xdata()) for line in rates] == [[197, 257, 1025]] * 2
    assert [list(line.get_ydata()) for line in gain] == [pytest.approx([1.3] * 3)]
    assert len(memory) == 2
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["197\n224 px", "1,025\n512 px"]  # 257 has no room
    without = [replace(sizes(), arms=tuple(replace(arm, peak_memory_mib=None) for arm in sizes().arms))]
    assert [axes.get_ylabel() for axes in tokens(without, "screen", {}).axes] == ["images/s"]


def test_over_the_tokens_nothing_else_shares_a_line() -> None:
    """Not the compiled model with the plain one, nor two cards of one name, two backends, or a size that was timed twice."""
    run, (cpu,) = sizes(), sizes().devices
    compiled = [replace(arm, model=f"compile:{arm.model}", arm=f"compile:{arm.arm}") for arm in run.arms]
    second = [replace(arm, device="second") for arm in run.arms]
    others = {
        "compile:vim_tiny": [replace(run, arms=(*run.arms, *compiled))],
        "(second)": [replace(run, arms=(*run.arms, *second), devices=(cpu, replace(cpu, id="second")))],
        "(reference)": [run, replace(run, run_id="b", arms=tuple(replace(arm, backend="reference") for arm in run.arms))],
        "(again)": [run, replace(run, run_id="again")],
    }
    for name, records in others.items():
        figure = tokens(records, "screen", {})
        rates = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3 and line.get_linestyle() != "None"]
        assert [list(line.get_xdata()) for line in rates] == [[197, 257, 1025]] * 4, name
        assert any(name in text.get_text().replace("\n", " ") for text in figure.axes[0].texts), name


def test_what_merging_gains_beside_another_models_arms_is_paired_in_the_rounds() -> None:
    """Of a run that was measured: its rows are over vim_tiny_384/r0, and so are those of DeiT."""
    with run_at(Path(__file__).parents[2] / "results/image_sizes/2core_avx512_384.tar.gz") as (folder, run):
        blocks = raw_of(run, folder).blocks
    found = {arm: value for (_, _, arm), value in speedups_over_own(run, blocks).items()}
    stored = {arm.arm: arm for arm in run.arms}
    assert found["vim_tiny_384/r33"] == stored["vim_tiny_384/r33"].speedup
    rounds = {(b.round, b.arm): b.seconds / b.images for b in blocks["cpu"]}
    ratios = [rounds[i, "deit_tiny_384/r0"] / rounds[i, "deit_tiny_384/r33"] for i in range(8)]
    gain = found["deit_tiny_384/r33"]
    assert gain.value == pytest.approx(np.median(ratios), rel=0.01)
    assert min(ratios) <= gain.low < gain.value < gain.high <= max(ratios)  # type: ignore[operator]
    assert "deit_tiny_384/r33" not in {arm for _, _, arm in speedups_over_own(run, {})}  # without the rounds nothing is known


def test_two_runs_of_one_machine_are_told_apart() -> None:
    names = [line.name for line in lines_of([cpu_run(), replace(cpu_run(), run_id="second")])]
    assert len(set(names)) == 2
    assert names[1].endswith("(second)")


def test_what_a_run_does_not_have_is_not_drawn() -> None:
    with pytest.raises(DataError, match="no speed-up"):
        speedup([replace(cpu_run(), arms=cpu_run().arms[:1])], "screen")
    with pytest.raises(DataError, match="before and after re-training"):
        retraining([cpu_run()], "screen")
    with pytest.raises(DataError, match="no energy"):
        energy([cpu_run()], "screen", {})
    with pytest.raises(DataError, match="--img-size 224,384"):
        tokens([cpu_run()], "screen", {})
    with pytest.raises(DataError, match="gpu_check"):
        kernel_times([{"models": {}}], "screen")


def with_energy(folder: Path, integrated: float) -> Path:
    run = record(cpu_run().devices, cpu_run().arms)
    save(run, folder)
    with Store.create(folder) as store:
        for number in range(6):
            for place, arm in enumerate(run.arms):
                seen = {"energy_j": 20.0, "energy_integrated_j": integrated}
                store.add_block(Block("cpu", 0, number, place, arm.arm, 1, 100, 1.0, 1.0, None, seen))
    return folder


def test_energy_comes_from_the_blocks_and_is_dropped_where_two_ways_disagree(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good, bad = with_energy(tmp_path / "good", 21.0), with_energy(tmp_path / "bad", 30.0)
    assert main(["figure", str(good), "--kind", "energy"]) == 0
    assert {path.name for path in good.glob("energy.*")} == {"energy.png", "energy.pdf", "energy.svg"}
    assert main(["report", str(good)]) == 0
    assert "Energy by the device's counter" in (good / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(bad)]) == 0
    assert "Energy by" not in (bad / "report.html").read_text(encoding="utf-8")
    assert main(["figure", str(bad), "--kind", "energy"]) == 2
    assert "no energy that can be trusted" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["speed_accuracy", "speedup"])
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_command_writes_what_the_name_says(kind: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(cpu_run(), tmp_path / "run")
    out = tmp_path / "figures" / f"mine.{ending}"
    assert main(["figure", str(tmp_path / "run"), "--kind", kind, "--style", "paper", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert out.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    if ending == "png":
        assert Image.open(out).size[0] == pytest.approx(3.35 * 300, abs=2)


def test_kernel_times_are_drawn_from_the_report_of_gpu_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "check.json"
    path.write_text(json.dumps(CHECK), encoding="utf-8")
    assert main(["figure", str(path), "--kind", "kernels", "--out", str(tmp_path / "kernels.svg")]) == 0
    path.write_text("{", encoding="utf-8")
    assert main(["figure", str(path), "--kind", "kernels"]) == 2
    assert "gpu_check.py" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 20])
def test_a_model_that_is_one_point_has_its_name_there(count: int) -> None:
    gpu = DeviceRecord("cuda:x", "Some GPU", "cuda")
    ours = arms(gpu.id, "vim_tiny", {0: 1000.0, 11: 1400.0})
    others = [
        replace(arms(gpu.id, "deit_tiny", {0: 1100.0 + 50 * i})[0], model=f"timm:m{i}", arm=f"timm:m{i}/r0")
        for i in range(count)
    ]
    together = tuple(replace(arm, baseline="vim_tiny/r0") for arm in (*ours, *others))
    figure = speed_accuracy([record((gpu,), together)], "screen")
    names = {text.get_text(): text for text in figure.findobj(Text) if text.get_text().startswith("timm")}
    assert set(names) == ({"timm:m0", "timm:m1"} if count == 2 else {"timm:m19"})
    for name in names.values():
        assert getattr(name, "arrow_patch", None) is None, "beside its point, without a leader over the whole figure"


def test_a_figure_of_training_says_so() -> None:
    run = cpu_run()
    trained = replace(run, arms=tuple(replace(arm, what="train", top1=None, delta_top1=None) for arm in run.arms))
    title = speed_accuracy([trained], "screen").get_suptitle()
    assert title.endswith(", in training")
    assert "training" not in speed_accuracy([run], "screen").get_suptitle()
