"""One profiled step of every arm: a Chrome trace, and its heaviest operations beside what the GPU's rates allow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmeeto_bench.bench.plan.plan import Cell
from rmeeto_bench.bench.session.context import Desk, prepare
from rmeeto_bench.cost.roofline import limit
from rmeeto_bench.cost.traffic import model_operations
from rmeeto_bench.errors import UsageError
from rmeeto_bench.files import new_file, write_atomic
from rmeeto_bench.measure.devices.device import Device
from rmeeto_bench.profiles import match_profile

HEAVIEST = 10  # operations of a table
WARM = 3  # steps before the one that is profiled
OUTSIDE = "outside torch's operations: merging on a CPU, Python"
FOLDER = "trace"  # in the run's


def run_trace(desk: Desk) -> dict[str, Any]:
    """Profile a step of each arm after warm-up, and write `trace/ARM.json.gz` and `trace/operations.md`."""
    desk.stage("trace")
    workload = prepare(desk.plan, desk.device, desk.resolved)
    folder = Path(desk.job.folder) / FOLDER
    pages = []
    for cell in (cell for model in desk.resolved for cell in model.cells):
        if cell.name in workload.names and not desk.should_stop():
            step = workload.step(cell.name, workload.batch_size)
            rows = _profiled(desk, step, folder / f"{_file(cell.name)}.json.gz")
            pages.append(_page(desk, cell, rows, workload.batch_size))
    write_atomic(folder / f"operations_{_file(desk.job.model)}.md", "\n".join(pages))
    desk.note(f"traces and the heaviest operations of {desk.job.model} are in {folder}; open a trace in ui.perfetto.dev")
    return {"arms": list(workload.names)}


def _file(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _profiled(desk: Desk, step: Callable[[], Any], path: Path) -> list[tuple[str, int, float]]:
    """(operation, calls, seconds of its own) of one step by descending time, on the device that the arms are timed on."""
    from torch.profiler import ProfilerActivity, profile, record_function

    on_gpu = desk.device.kind == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    for _ in range(WARM):
        step()
    with profile(activities=activities) as profiler, record_function(OUTSIDE):
        desk.device.time_block(step, 1)
    with new_file(path) as target:
        profiler.export_chrome_trace(str(target))
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [(event.key, event.count, getattr(event, own) / 1e6) for event in profiler.key_averages()]
    return sorted((row for row in found if row[2] > 0), key=lambda row: -row[2])


def _page(desk: Desk, cell: Cell, rows: list[tuple[str, int, float]], batch_size: int) -> str:
    """The heaviest operations of an arm, and the least time of each kernel by the datasheet, as Markdown."""
    total = sum(seconds for _, _, seconds in rows)
    lines = [f"## {cell.name} on {desk.device.name}, batch {batch_size}: {1e3 * total:.3f} ms in operations\n"]
    if rows:
        lines += ["| operation | calls | ms | share |", "| --- | ---: | ---: | ---: |"]
    else:
        lines.append("The profiler saw no work on the device: ask whether you may profile it (CUPTI needs a permission).")
    for name, calls, seconds in rows[:HEAVIEST]:
        shown = name.replace("|", "\\|")
        lines.append(f"| `{shown}` | {calls} | {1e3 * seconds:.3f} | {100 * seconds / total:.1f} % |")
    return "\n".join([*lines, "", *expected(desk.device, cell, batch_size)])


def expected(device: Device, cell: Cell, batch_size: int) -> list[str]:
    """Lines of Markdown: the least time of each kernel at the datasheet's rates, or why there is none."""
    from rmeeto_bench.models.sizes import config

    profile = match_profile(device.name, device.details().get("memory_gib"))
    if profile is None:
        return [f"The rates of {device.name} are not known: there is no limit to compare with.\n"]
    try:
        operations = model_operations(config(cell.model), cell.reduction, batch_size, "fused")
        least = {
            name: limit([one for one in operations if one.name == name], profile).seconds
            for name in dict.fromkeys(one.name for one in operations)
        }
    except UsageError as error:
        return [f"No limit to compare with: {error}.\n"]
    calls = Counter(one.name for one in operations)
    total = sum(least.values())
    lines = [f"By the datasheet of {profile.display} the same step takes at least {1e3 * total:.3f} ms (fp16):\n"]
    lines += ["| kernel | calls | ms at least | share |", "| --- | ---: | ---: | ---: |"]
    for name, seconds in sorted(least.items(), key=lambda one: -one[1]):
        lines.append(f"| {name} | {calls[name]} | {1e3 * seconds:.3f} | {100 * seconds / total:.1f} % |")
    return [*lines, ""]
