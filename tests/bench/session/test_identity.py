"""The program that is timed is the program whose accuracy is measured, or the result says IDENTITY_FAILED."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_harness import controls, short

from rmeeto_bench.bench.plan.plan import BenchPlan
from rmeeto_bench.bench.run.runner import run
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.probe import probe
from rmeeto_bench.bench.store.predictions import Predictions
from rmeeto_bench.bench.store.store import Store
from rmeeto_bench.bench.summary.arm_records import difference
from rmeeto_bench.checkpoints.writer import save_checkpoint
from rmeeto_bench.errors import CheckpointError, SlowPathError
from rmeeto_bench.models.zoo import create_model
from rmeeto_bench.records.run import RunRecord, load

FACTS = {"precision": "fp32", "batch_size": 8, "backend": "native", "checkpoint_sha256": "0" * 64, "token_counts": [197]}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    short(monkeypatch)


def measured(tmp_path: Path, before: object, **changes: object) -> RunRecord:
    values = {"models": ("vim_nano",), "rs": (0, 20), "gpus": "none", "preset": "quick", "images": 8, "batch_size": 4}
    plan = BenchPlan(**{**values, **changes})  # type: ignore[arg-type]
    return run(plan, tmp_path / "run", controls(before))  # type: ignore[arg-type]


def test_the_same_program_passes(tmp_path: Path) -> None:
    record = measured(tmp_path, lambda _: None)
    assert [arm.verdict for arm in record.arms] == ["EXPLORATORY", "EXPLORATORY"]
    assert [arm.n_images for arm in record.arms] == [8, 8]
    with Store.open(tmp_path / "run") as store:
        timed, evaluated = (store.probes("cpu", s.session) for s in store.sessions("cpu"))
        assert timed == evaluated
        assert len(timed["vim_nano/r0"].top1) == 8
        assert np.array_equal(
            Predictions(store, "cpu").results(["vim_nano/r0"]).best["vim_nano/r0"][:, 0], timed["vim_nano/r0"].top1
        )


def test_another_checkpoint_in_the_accuracy_pass_is_found(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    model = create_model("vim_nano", checkpoint="bundled")
    save_checkpoint(model.state_dict(), weights / "vim_nano_r0.safetensors", metadata={"model": "vim_nano", "r": "0"})

    def corrupt(job: Job) -> None:
        if job.kind == "accuracy":
            state = model.state_dict()
            state["head.weight"][3] += 1.0
            save_checkpoint(state, weights / "vim_nano_r0.safetensors", metadata={"model": "vim_nano", "r": "0"})

    with pytest.raises(CheckpointError, match=r"vim_nano_r0\.safetensors was changed after the run began"):
        measured(tmp_path, corrupt, checkpoints=str(weights), rs=(0,))
    assert load(tmp_path / "run").arms[0].images_per_second is not None  # what was measured is kept


def test_a_weight_changed_in_memory_is_found(tmp_path: Path) -> None:
    def corrupt(job: Job) -> None:
        if job.kind == "accuracy":
            from rmeeto_bench.bench.session import built_arm as arms

            load = arms.load_state

            def load_wrongly(model: torch.nn.Module, *rest: object, **words: object) -> object:
                provenance = load(model, *rest, **words)  # type: ignore[arg-type]
                with torch.no_grad():
                    model.head.bias[0] += 100  # type: ignore[index, union-attr]
                return provenance

            arms.load_state = load_wrongly  # type: ignore[assignment]

    record = measured(tmp_path, corrupt, rs=(0,))
    assert record.arms[0].verdict == "IDENTITY_FAILED"
    assert "% of the probe images get the same class" in record.arms[0].verdict_detail


def test_probes_tell_programs_apart_and_ignore_the_last_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 10, generator=generator) for _ in range(2)]
    first = probe(lambda x: x, batches)
    assert first == probe(lambda x: x, batches)
    assert len(first.top1) == 16
    nearly = probe(lambda x: x + 1e-6, batches)
    assert nearly.top1 == first.top1
    assert probe(lambda x: -x, batches).digest != first.digest
    predictions = np.repeat(np.asarray(first.top1, np.int16)[:, None], 5, 1)
    assert difference((first, FACTS), (first, FACTS), predictions) is None
    assert difference((first, FACTS), (nearly, FACTS), predictions) is None
    other = difference((first, FACTS), (probe(lambda x: -x, batches), FACTS), predictions)
    assert other is not None
    assert "same class" in other
    assert "recorded predictions" in (difference((first, FACTS), (first, FACTS), (predictions + 1) % 10) or "")
    assert "batch size 8 was timed, 16 evaluated" in (
        difference((first, FACTS), (first, {**FACTS, "batch_size": 16}), predictions) or ""
    )
    assert difference((None, FACTS), (first, FACTS), predictions) == "a probe is missing"


def test_kernels_asked_for_by_name_that_are_missing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlowPathError, match="mamba"):
        measured(tmp_path, lambda _: None, backend="mamba_ssm")
    assert SlowPathError.exit_code == 6
    assert not (tmp_path / "run").exists()


def test_tokens_that_are_not_the_schedules_are_found(tmp_path: Path) -> None:
    def miscount(job: Job) -> None:
        from rmeeto_bench.models.vim import Vim

        counts = Vim.token_counts
        Vim.token_counts = lambda self: (*counts(self)[:-1], 99)  # type: ignore[method-assign]

    record = measured(tmp_path, miscount, rs=(0, 20), checkpoints="none")
    assert {arm.verdict for arm in record.arms} == {"TOKENS_MISMATCH"}
    assert record.arms[1].final_tokens == 99


def test_an_arm_that_does_not_fit_is_a_row_and_the_others_are_measured(tmp_path: Path) -> None:
    def small_memory(job: Job) -> None:
        from rmeeto_bench.bench.session import workload

        build = workload.build

        def build_if_it_fits(cell: object, *rest: object) -> object:
            if cell.r == 20:  # type: ignore[attr-defined]
                raise torch.OutOfMemoryError
            return build(cell, *rest)  # type: ignore[arg-type]

        workload.build = build_if_it_fits  # type: ignore[assignment]

    record = measured(tmp_path, small_memory, rs=(0, 11, 20), checkpoints="none")
    assert [arm.verdict for arm in record.arms] == ["EXPLORATORY", "EXPLORATORY", "OOM"]
    assert [arm.images_per_second is None for arm in record.arms] == [False, False, True]
    assert {arm.batch_size for arm in record.arms} == {4}
