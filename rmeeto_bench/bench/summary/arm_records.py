"""From the store to the rows of the record: every number is computed again from blocks, predictions and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmeeto_bench import published
from rmeeto_bench.bench.plan.plan import BenchPlan, Cell, batch_size_for, group_cells, precision_for, protocol_for
from rmeeto_bench.bench.session.probe import AGREEMENT, SAME, agreement
from rmeeto_bench.bench.store.store import NOISE, Facts, Probe, Session, Store
from rmeeto_bench.bench.summary.accuracy import Accuracy, accuracy_of, with_accuracy
from rmeeto_bench.bench.summary.tradeoff import with_tradeoffs
from rmeeto_bench.checkpoints.trained import in_words, read_reduction
from rmeeto_bench.cost.flops import gflops_by_convention
from rmeeto_bench.measure.rounds import RoundsResult
from rmeeto_bench.measure.statistics import as_asked, complete_rounds, half_width, run_rate, run_speedup
from rmeeto_bench.measure.steadiness import still_warming, unsteady
from rmeeto_bench.measure.verdict import FEWEST_ROUNDS, REMEDIES, Evidence, Printed, judge, judge_run, labels
from rmeeto_bench.models.sizes import config, is_other
from rmeeto_bench.profiles import match_profile
from rmeeto_bench.records.run import Arm, Block, DeviceRecord, Estimate
from rmeeto_bench.reduction.schedule import reduction_ratio

PERCENTILES = (50, 90, 99)
UNFINISHED = {  # of an evaluation: its verdicts in its own words
    "NOT_MEASURED": "no image was evaluated; continue with resume",
    "INTERRUPTED": "only some of the images were evaluated; continue with resume",
}


def difference(
    timed: tuple[Probe | None, Mapping[str, Any]],
    evaluated: tuple[Probe | None, Mapping[str, Any]],
    predictions: NDArray[np.int16],
) -> str | None:
    """How the timed program differs from the evaluated one, or None if they are the same.

    Each comes as its probe and the facts of its arm; `predictions` [n, 5] are those of the accuracy pass, whose first
    images are the probe images. Bit-equal logits are not asked for: each process may choose other kernels.
    """
    (first, first_facts), (second, second_facts) = timed, evaluated
    for name in SAME:
        if first_facts.get(name) != second_facts.get(name):
            return f"{name.replace('_', ' ')} {first_facts.get(name)} was timed, {second_facts.get(name)} evaluated"
    if first is None or second is None:
        return "a probe is missing"
    if first.digest != second.digest and agreement(first, second) < AGREEMENT:
        return f"only {100 * agreement(first, second):.1f} % of the probe images get the same class"
    count = min(len(first.top1), len(predictions))
    same = float(np.mean(np.asarray(first.top1[:count]) == predictions[:count, 0])) if count else 1.0
    return None if same >= AGREEMENT else f"only {100 * same:.1f} % of the recorded predictions are those of the timed program"


def percentiles(seconds: ArrayLike) -> dict[str, float]:
    """`p50`, `p90`, `p99` in milliseconds and `steps`, the number of steps behind them; above p50 only what has two steps
    beyond it: p99 of fifty would be their worst."""
    values = 1000 * np.asarray(seconds, float)
    known = [p for p in PERCENTILES if p == PERCENTILES[0] or (100 - p) * len(values) >= 200]
    return {f"p{p}": float(np.percentile(values, p)) for p in known} | {"steps": float(len(values))}


# What must not change between the sessions of a run (environment's names): another driver is another machine.
FINGERPRINT = ("python", "packages", "cuda", "git_commit", "driver", "power_limit_w", "threads")


@dataclass(frozen=True)
class Place:
    """One group of models on one device of a run, and the sessions that count for it."""

    plan: BenchPlan  # of the run
    device: DeviceRecord  # where its models ran
    group: str  # name of the group: the model's, or those of all that share rounds
    store: Store  # database of the run
    timing: tuple[Session, ...]  # timing sessions that count, in the order of their numbers

    @property
    def session_numbers(self) -> tuple[int, ...]:
        """Of the sessions that count."""
        return tuple(session.session for session in self.timing)

    @property
    def facts_from(self) -> tuple[int, ...]:
        """Numbers of the sessions that say what the arms are: those that timed, or those of an evaluation."""
        evaluated = self.store.sessions(self.device.id, self.group, "accuracy") if self.plan.accuracy_only else ()
        return self.session_numbers or tuple(session.session for session in evaluated)


def place(plan: BenchPlan, device: DeviceRecord, group: str, store: Store) -> Place:
    """The finished timing sessions of a group on a device; none where a plan times nothing.

    A session that was interrupted counts only while none is finished: a restarted one replaces it, and a few rounds
    would weigh as much as many.
    """
    sessions = store.sessions(device.id, group, "timing")
    done = [session for session in sessions if session.status == "done"]
    return Place(plan, device, group, store, tuple(done or sessions[-1:]))


def _paper(cell: Cell, device: DeviceRecord) -> dict[str, float] | None:
    """Table 12's values where this is one of its GPUs and models; they are fp16 at batch 128."""
    if device.kind != "cuda":
        return None
    profile = match_profile(device.name, device.details.get("memory_gib"))
    if profile is None or not profile.paper_column:
        return None
    found = published.throughput(cell.model, profile.paper_column, cell.r)
    top1 = published.top1(cell.model, cell.r)
    return None if found is None else {**found, **({} if top1 is None else {"top1": top1})}


def _base(cell: Cell, here: Place, facts: Facts) -> Arm:
    """The row of a cell before anything is measured."""
    if is_other(cell.model):
        return _other(cell, here, facts)
    sized = config(cell.model, **({} if facts.num_classes is None else {"num_classes": facts.num_classes}))
    reduction = read_reduction(facts.reduction) if facts.reduction else cell.reduction
    planned = sized.token_counts(reduction)
    counts = facts.token_counts or planned
    return Arm(
        device=here.device.id,
        arm=cell.name,
        model=cell.model,
        r=cell.r,
        ratio_requested=cell.ratio_requested,
        reduction_ratio=reduction_ratio(planned, sized.num_tokens),
        token_counts=counts,
        final_tokens=counts[-1],
        precision=facts.precision,
        backend=facts.backend,
        batch_size=facts.batch_size,
        weights=facts.weights,
        checkpoint=facts.checkpoint,
        checkpoint_sha256=facts.checkpoint_sha256,
        labels=facts.labels,
        peak_memory_mib=facts.peak_memory_mib,
        gflops=gflops_by_convention(sized, reduction),
        paper=_paper(cell, here.device),
        known_by=facts.known_by,
        averaged=facts.averaged,
        reduction=in_words(reduction),
        what=here.plan.what,
    )


def _other(cell: Cell, here: Place, facts: Facts) -> Arm:
    """The row of a model that is not ours: nothing is known of its tokens, and of its operations what torch counts."""
    counts: dict[str, Any] = {"r": 0, "ratio_requested": 0.0, "reduction_ratio": 0.0, "token_counts": (), "final_tokens": 0}
    names = ("precision", "backend", "batch_size", "weights", "checkpoint", "checkpoint_sha256", "labels", "averaged")
    same = {name: getattr(facts, name) for name in (*names, "peak_memory_mib", "known_by")}
    gflops = {} if facts.gflops is None else {"counted": facts.gflops}
    return Arm(here.device.id, cell.name, cell.model, **counts, **same, gflops=gflops)


def _fingerprint(session: Session) -> tuple[str, ...]:
    return tuple(repr(session.environment.get(name)) for name in FINGERPRINT)


def _planned_facts(here: Place) -> Facts:
    kind = here.device.kind
    return Facts(precision_for(here.plan, kind), batch_size_for(here.plan, kind), here.plan.backend)


def _identity(arm: str, here: Place, accuracy: Accuracy | None) -> str | None:
    """How the timed program differs from the evaluated one, or None."""
    if accuracy is None or arm not in accuracy.facts:
        return None
    evaluated = (here.store.probes(here.device.id, accuracy.session.session).get(arm), accuracy.facts[arm])
    if evaluated[0] is None:
        return None  # random weights: not evaluated
    predictions = accuracy.results.best.get(arm, np.empty((0, 5), np.int16))
    if accuracy.session.result.get("views", 1) > 1 or accuracy.session.status != "done":
        predictions = predictions[:0]  # of all views of a clip, where one was timed, or not of the first images
    for session in here.timing:
        if session.status == "done":
            timed = here.store.probes(here.device.id, session.session).get(arm)
            found = difference((timed, here.store.facts(here.device.id, session.session).get(arm, {})), evaluated, predictions)
            if found is not None:
                return found
    return None


def _results(here: Place) -> list[RoundsResult]:
    """How the rounds of each counting session went; a session that never said so was interrupted."""
    found = []
    for session in here.timing:
        rounds = session.result.get("rounds")
        if rounds is not None:
            found.append(RoundsResult(**rounds))
        elif session.status != "done":
            blocks = [b for b in here.store.blocks(here.device.id) if b.session == session.session]
            complete = complete_rounds(blocks, sorted({b.arm for b in blocks}))
            number = max((len(next(iter(times.values()), [])) for times in complete), default=0)
            found.append(RoundsResult(number, False, "interrupted", float("inf")))
    return found


def _extras(arm: Arm, here: Place) -> Arm:
    """Latency at batch 1, the paper's protocol, energy, and the whole pipeline."""
    latencies = [here.store.latencies(here.device.id, number).get(arm.arm) for number in here.session_numbers]
    known = [seconds for seconds in latencies if seconds is not None]
    paper: dict[str, float] | None = None
    for session in here.store.sessions(here.device.id, here.group, "paper"):
        rates = session.result.get("images_per_second", {})
        if session.status == "done" and arm.arm in rates:
            first = next(iter(rates.values()))  # the baseline
            paper = {"images_per_second": rates[arm.arm], "speedup": rates[arm.arm] / first}
    joules: Estimate | None = None
    for session in here.store.sessions(here.device.id, here.group, "energy"):
        found = session.result.get("energy", {}).get(arm.arm, {}).get("joules") if session.status == "done" else None
        joules = Estimate(**found) if found else joules
    latency = percentiles(np.concatenate(known)) if known else None
    fed = [s.result["fed"] for s in here.store.sessions(here.device.id, here.group, "fed") if s.status == "done"]
    whole = fed[-1].get(arm.arm) if fed else None
    return replace(arm, latency_ms=latency, paper_mode=paper, joules_per_image=joules, fed=whole)


Rounds = Sequence[Mapping[str, list[float]]]  # seconds per image of each running arm, by session


def _widths(baseline: str, times: Rounds) -> list[float]:
    """Half-widths of the speed-ups of all arms."""
    others = [name for name in (times[0] if times else ()) if name != baseline and baseline in times[0]]
    first = [session[baseline] for session in times] if others else []
    return [half_width(run_speedup(first, [session[name] for session in times])) for name in others]


def _printed(arm: Arm, baseline: str, times: Rounds, widths: Sequence[float], blocks: Sequence[Block]) -> Printed:
    """What the row and the middle arm show, and how speeds or heat changed behind it."""
    if arm.arm == baseline or arm.speedup is None:
        return Printed(arm.sessions, None)
    width = half_width(arm.speedup)
    heat: dict[int, list[float]] = {}
    for block in blocks:
        if not block.rejected_reason and "temperature_c" in block.telemetry:
            heat.setdefault(block.session, []).append(block.telemetry["temperature_c"])
    moved = unsteady(times, baseline, arm.arm) or still_warming(list(heat.values()))
    return Printed(arm.sessions, width, float(np.median(widths)), moved)


def _verdict_of_evaluation(arm: Arm, here: Place, facts: Facts) -> Arm:
    """The row of an arm that was not to be timed, with its verdict."""
    passes = here.store.sessions(here.device.id, here.group, "accuracy")
    evidence = Evidence(
        out_of_memory=facts.failure == "OOM",
        arm_failed=facts.failure == "ARM_FAILED",
        tokens_mismatch=facts.token_counts != facts.planned_token_counts,
        slow_path=facts.failure == "SLOW_PATH",
    )
    done = any(session.status == "done" for session in passes)
    images = RoundsResult(arm.n_images, True, "rounds" if done else "interrupted", 0.0)  # they count as rounds do
    code = judge(images, protocol_for(here.plan, here.device.kind), evidence)
    return replace(arm, verdict=code, verdict_detail=UNFINISHED.get(code, REMEDIES[code]))


def _verdict(arm: Arm, here: Place, facts: Facts, different: str | None, printed: Printed) -> Arm:
    """The row with its verdict and labels."""
    evidence = Evidence(
        simulated=here.device.kind == "sim",
        out_of_memory=facts.failure == "OOM",
        arm_failed=facts.failure == "ARM_FAILED",
        tokens_mismatch=facts.token_counts != facts.planned_token_counts,
        identity_failed=different is not None,
        slow_path=facts.failure == "SLOW_PATH",
        environment_changed=len({_fingerprint(session) for session in here.timing}) > 1,
        synthetic_input=here.device.kind != "sim"
        and (facts.noise or any(session.result.get("noise", False) for session in here.timing)),
        host_bound=facts.host_bound,
        mig=bool(here.device.details.get("mig") or here.device.details.get("nvml", {}).get("mig")),
    )
    protocol = protocol_for(here.plan, here.device.kind)
    results = _results(here) or [RoundsResult(0, False, "interrupted", float("inf"))]
    code = judge_run(results, protocol, printed, evidence)
    if facts.failure is None and arm.rounds < FEWEST_ROUNDS and code not in ("INTERRUPTED", "THROTTLED", "CONTENDED"):
        code = "NOT_MEASURED"
    if code in ("VALID", "EXPLORATORY", "SIMULATED") and len(here.timing) < protocol.sessions:
        code = "INTERRUPTED"
    marked = dict.fromkeys(label for result in results for label in labels(result, evidence))
    drifted = printed.unsteady or "speed was still drifting after warm-up"
    reason = {"IDENTITY_FAILED": different, "NOT_STEADY": drifted, "ARM_FAILED": facts.failure_detail}.get(code)
    detail = REMEDIES[code] if reason is None else f"{reason}; {REMEDIES[code]}"
    return replace(arm, verdict=code, verdict_detail=detail, labels=(*arm.labels, *marked))


def arm_records(here: Place, failure: str | None = None) -> list[Arm]:
    """The rows of a group on a device, by model and ascending r, but the baseline first.

    failure: the code of a device that could run none of them.

    Intervals are 95 %; the speed-up is paired within rounds, sessions are its replicates, the accuracy is paired by image.
    """
    planned = group_cells(here.plan, here.group)
    baseline, accuracy = planned[0].name, accuracy_of(here.store, here.device.id, here.group)
    facts = dict.fromkeys((cell.name for cell in planned), replace(_planned_facts(here), failure=failure))
    longest = dict[str, float]()  # of compiling: the first process finds nothing in the cache
    for number in here.facts_from:
        found = {name: Facts.from_dict(value) for name, value in here.store.facts(here.device.id, number).items()}
        longest |= {name: max(longest.get(name, 0.0), one.compile_seconds or 0.0) for name, one in found.items()}
        facts |= {name: one for name, one in found.items() if name in facts}
    running = [name for name in facts if facts[name].failure is None]
    blocks = [b for b in here.store.blocks(here.device.id) if b.session in here.session_numbers]
    noise = {block.arm for block in blocks if block.arm.endswith(NOISE)}
    names = [*running, *(name + NOISE for name in running if name + NOISE in noise)]
    sessions = [times for times in complete_rounds(blocks, names) if times and len(next(iter(times.values()))) > 0]
    timed = [{name: session[name] for name in running} for session in sessions]
    widths, asked, rows = _widths(baseline, timed), protocol_for(here.plan, here.device.kind).target, []
    for cell in planned:
        arm = _base(cell, here, facts[cell.name])
        times = [session[cell.name] for session in sessions] if cell.name in running else []
        named = baseline if here.plan.together else ""
        arm = replace(arm, rounds=sum(map(len, times)), sessions=len(times), baseline=named)
        if facts[cell.name].compile_seconds is not None:
            arm = replace(arm, compile_seconds=longest[cell.name], recompilations=facts[cell.name].recompilations)
        if arm.rounds >= FEWEST_ROUNDS:
            first = [session[baseline] for session in sessions]
            speedup = Estimate(1.0)
            if cell.name != baseline:
                speedup = as_asked(run_speedup(first, times), widths, asked, len(times))
            arm = replace(arm, images_per_second=run_rate(times), speedup=speedup)
            if cell.name + NOISE in noise:
                arm = replace(arm, noise_speed=run_speedup(times, [session[cell.name + NOISE] for session in sessions]))
        arm = _extras(arm if accuracy is None else with_accuracy(arm, accuracy.results, baseline), here)
        if here.plan.accuracy_only:
            rows.append(_verdict_of_evaluation(arm, here, facts[cell.name]))
            continue
        printed = _printed(arm, baseline, timed, widths, blocks)
        row = _verdict(arm, here, facts[cell.name], _identity(cell.name, here, accuracy), printed)
        if row.verdict == "NOT_MEASURED" and facts[baseline].failure is not None:
            row = replace(row, verdict_detail=f"{baseline} did not run, with which all are compared; choose another --baseline")
        rows.append(row)
    correct = {} if accuracy is None else {name: accuracy.results.correct(name) for name in accuracy.results.best}
    return with_tradeoffs(rows, sessions, correct, here.plan.seed)
