"""The page of all runs: a row for each model, and no number of one model in another's row."""

from __future__ import annotations

from dataclasses import replace

import sample_runs

from rmeeto_bench.records.run import DeviceRecord, Estimate
from rmeeto_bench.report.gallery import gallery

GPU = DeviceRecord("cuda:x", "Some | GPU", "cuda")


def test_each_model_has_its_own_row_and_says_over_what_it_is_faster() -> None:
    small = sample_runs.arms(GPU.id, "vim_small", {0: 100.0, 11: 120.0})
    tiny = sample_runs.arms(GPU.id, "vim_tiny", {0: 400.0, 20: 900.0})
    together = tuple(
        replace(arm, baseline="vim_small/r0", speedup=Estimate(arm.images_per_second.value / 100)) for arm in (*small, *tiny)
    )
    newer = replace(sample_runs.record((GPU,), together), created_utc="2030-01-01T00:00:00Z", run_id="newer")
    text = gallery({"old": sample_runs.record((GPU,), small), "new": newer, "new/run.tar.gz": newer})
    rows = [line for line in text.splitlines() if line.startswith("| vim")]
    assert ["(new/run.tar.gz)" in row for row in rows] == [True, True, False]
    assert [row.split(" | ")[2] for row in rows] == ["100", "400", "100"]
    assert "1.200x over vim_small/r0" in rows[0]
    assert "9.000x over vim_small/r0" in rows[1]
    assert "over" not in rows[2]
    assert "## Some \\| GPU" in text
    assert "Nothing yet." in gallery({})


def test_a_row_of_training_says_so_and_nothing_is_said_of_unknown_tokens() -> None:
    arms = sample_runs.arms(GPU.id, "vim_small", {0: 100.0, 11: 120.0})
    training = sample_runs.record((GPU,), tuple(replace(arm, what="train") for arm in arms))
    unknown = replace(sample_runs.record((GPU,), (replace(arms[0], token_counts=()),)), run_id="unknown")
    ours, theirs = (row.split(" | ") for row in gallery({"a": training, "b": unknown}).splitlines() if row.startswith("| vim"))
    if not ours[1].startswith("training, "):
        ours, theirs = theirs, ours
    assert (ours[1].startswith("training, "), ours[3]) == (True, "0.31")
    assert (theirs[1].startswith("training, "), theirs[3]) == (False, "—")
