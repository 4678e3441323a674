"""What the machine code of a kernel says about its speed: its instructions, and the cycles that a simple model gives them.

The model is one scheduler of a multiprocessor that issues in order to a few warps. It reads the stall counts and the
scoreboards that the assembler wrote beside each instruction, and knows how long each kind of unit is busy. It knows nothing of
bank conflicts, queues or other programs, so its digits are too good; trust the order of two versions of one kernel.
"""

from __future__ import annotations

import heapq
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STORED = Path(__file__).parents[2] / "results" / "kernel_static.json"
ALLOWED = 1.03  # times the stored figure

LEAST = 20  # instructions of a loop that counts
STEPS = 16  # turns of a loop that are simulated; the second half is measured
WARPS = 3  # of a scheduler: what the scan has on an H100 at batch 128
SHARING = (1, 3, 8)  # warps of a scheduler for which predictions are stored, too
OPEN, NEVER = 7, 1 << 62  # no scoreboard; longer than any wait

BUSY = {"XU": 8, "LSU": 4, "ALU": 2, "UNI": 2, "CTL": 1}  # cycles that an instruction of a warp keeps its unit
ANSWER = {"XU": 22, "STORE": 20, "DRAM": 560, "L2": 265, "L1": 38, "OTHER": 10}  # cycles until a result is there (H100)
ONE_FMA = (70, 80)  # cards with half the units for fp32
UNITS = {
    "XU": "MUFU I2F F2F F2I",
    "LSU": "LDG STG LDS STS SHFL LDSM RED ATOMG",
    "FMA": "FFMA FMUL FADD",
    "FMAH": "IMAD HADD2 HMUL2 HFMA2 F2FP",
    "ALU": "FSETP FSEL FMNMX FSET IADD3 LOP3 SHF LEA PRMT SEL MOV ISETP IMNMX PLOP3 VIADD VIMNMX I2FP CS2R IABS P2R R2P SGXT",
}
UNIT = {name: unit for unit, names in UNITS.items() for name in names.split()}


@dataclass(frozen=True)
class Instruction:
    """One instruction and what the assembler wrote beside it."""

    name: str  # with its suffixes
    rest: str  # operands, as text
    stall: int  # cycles until the next one of this warp
    writes: int  # scoreboard that its result releases; OPEN: none
    reads: int  # scoreboard that its operands release; OPEN: none
    waits: int  # scoreboards that must be free, as bits

    @property
    def unit(self) -> str:
        """Which unit it keeps busy."""
        short = self.name.split(".")[0]
        return UNIT.get(short, "UNI" if short.startswith("U") or short in ("R2UR", "S2UR") else "CTL")


def disassemble(cubin: bytes) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of a kernel, and label -> index."""
    triton = find_spec("triton")
    assert triton is not None
    assert triton.origin is not None
    tool = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-hex", "-c", file.name], capture_output=True, text=True, check=True).stdout
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    pending: tuple[str, str] | None = None
    for line in text.splitlines():
        if match := re.match(r"^(\.L_\w+):", line):
            labels[match[1]] = len(found)
        elif match := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z0-9_.]+)\s*(.*?);?\s*/\* 0x", line):
            pending = (match[1], match[2].rstrip(" ;"))
        elif (match := re.match(r"^\s+/\* (0x[0-9a-f]{16}) \*/", line)) and pending:
            bits = int(match[1], 16)
            codes = (bits >> 41 & 15, bits >> 46 & 7, bits >> 49 & 7, bits >> 52 & 63)
            found.append(Instruction(*pending, *codes))
            pending = None
    return found, labels


def bodies(code: list[Instruction], labels: dict[str, int]) -> list[list[Instruction]]:
    """The loops of a kernel; where there are none, everything up to its end."""
    loops = []
    for index, instruction in enumerate(code):
        target = re.search(r"\.L_\w+", instruction.rest) if instruction.name.startswith("BRA") else None
        first = labels.get(target[0], index) if target else index
        if index - first > LEAST:
            loops.append(code[first : index + 1])
    end = next((index for index, one in enumerate(code) if one.name.startswith("EXIT") and index > LEAST), len(code) - 1)
    return loops or [code[: end + 1]]


def _memory(body: list[Instruction]) -> list[tuple[str, int] | None]:
    """Of each load: whether it streams from memory, or which sector of B and C it reads (four loads or more off one base)."""
    places: list[tuple[str, int] | None] = []
    for one in body:
        found = re.findall(r"\[(R\d+)(?:\.64|\.U32)?(?:\+UR\d+)?(?:\+(-?0x[0-9a-f]+))?\]", one.rest)
        base = (found[-1][0], int(found[-1][1] or "0", 16)) if found else ("?", 0)
        places.append(base if one.name.startswith("LDG") else None)
    shared = Counter(place[0] for place in places if place)
    return [place and (("sector", place[1] // 32) if shared[place[0]] >= 4 else ("stream", 0)) for place in places]


@dataclass
class _Warp:
    """Where a warp stands."""

    ready: int  # cycle of its next instruction, by stall counts
    at: int = 0  # index of its next instruction
    turns: int = 0  # of the loop that it has finished
    ends: list[int] = field(default_factory=list)  # cycle of each turn's end
    held: list[int] = field(default_factory=lambda: [0] * 6)  # pending releases of each scoreboard
    releases: list[tuple[int, int]] = field(default_factory=list)  # (cycle, scoreboard), a heap
    sectors: dict[tuple[int, int], int] = field(default_factory=dict)  # (turn, sector) -> cycle at which it is near

    def earliest(self, now: int, waits: int) -> int:
        """The cycle from which this warp may issue an instruction with these waits, as far as is known now."""
        while self.releases and self.releases[0][0] <= now:
            self.held[heapq.heappop(self.releases)[1]] -= 1
        if any(waits >> board & 1 and self.held[board] for board in range(6)):
            return max(self.ready, self.releases[0][0])
        return self.ready


def _answer(one: Instruction, place: tuple[str, int] | None, warp: _Warp, now: int) -> int:
    """Cycles until the result of an instruction is there."""
    if one.unit == "XU":
        return ANSWER["XU"]
    if one.unit != "LSU":
        return ANSWER["OTHER"]
    if place is None:
        return ANSWER["STORE"]
    if place[0] == "stream":
        return ANSWER["DRAM"]
    near = warp.sectors.setdefault((warp.turns, place[1]), now + ANSWER["L2"])
    return max(ANSWER["L1"], near - now + 2)


def _unit(one: Instruction, free: dict[str, int], card: int) -> str:
    """The unit that an instruction would take: where there are two for fp32, the one that is free first."""
    if one.unit == "FMA":
        return "FMA1" if card not in ONE_FMA and free["FMA1"] <= free["FMA0"] else "FMA0"
    return "FMA0" if one.unit == "FMAH" else one.unit


def cycles(body: list[Instruction], card: int, sharing: int = WARPS) -> float:
    """Cycles of a scheduler for one turn of a loop of one warp, where so many warps share it."""
    places, free = _memory(body), defaultdict[str, int](int)
    warps = [_Warp(37 * number) for number in range(sharing)]
    now = 0
    while min(warp.turns for warp in warps) < STEPS:
        soonest = NEVER
        for warp in warps:
            one = body[warp.at]
            unit = _unit(one, free, card)
            earliest = max(warp.earliest(now, one.waits), free[unit])
            soonest = min(soonest, earliest)
            if earliest <= now:
                break
        else:
            now = max(now + 1, soonest)
            continue
        warps.remove(warp)
        warps.append(warp)  # the others come first next time
        free[unit] = now + BUSY.get(unit, 2)
        if one.writes != OPEN:
            warp.held[one.writes] += 1
            heapq.heappush(warp.releases, (now + _answer(one, places[warp.at], warp, now), one.writes))
        if one.reads != OPEN:
            warp.held[one.reads] += 1
            heapq.heappush(warp.releases, (now + (12 if unit in ("LSU", "XU") else 6), one.reads))
        warp.ready = now + max(1, one.stall)
        warp.at += 1
        if warp.at == len(body):
            warp.at, warp.turns = 0, warp.turns + 1
            warp.ends.append(now)
        now += 1
    half = STEPS // 2
    return sum((warp.ends[STEPS - 1] - warp.ends[half]) / (STEPS - 1 - half) for warp in warps) / sharing**2


def figures(cubin: bytes, card: int) -> dict[str, int]:
    """Of a kernel: its instructions, those of its loops, and the cycles of one turn of each loop together."""
    code, labels = disassemble(cubin)
    loops = bodies(code, labels)
    return {
        "instructions": sum(one.name != "NOP" for one in code),
        "looped": sum(map(len, loops)),
        "cycles": round(sum(cycles(loop, card) for loop in loops)),
    }


def turns(cubin: bytes, card: int) -> list[list[int]]:
    """Cycles of a turn of each loop, in the order of their ends, for each of SHARING: what predictions are made of."""
    return [[round(cycles(loop, card, sharing)) for sharing in SHARING] for loop in bodies(*disassemble(cubin))]


Table = dict[str, dict[str, dict[str, Any]]]  # card -> kernel -> figure -> value


def table(entries: Iterable[dict[str, Any]]) -> Table:
    """The figures among the entries that compile_kernels.py reports."""
    found: Table = {}
    for entry in entries:
        if "cycles" in entry:
            call = re.sub(r" r=\d+| cls=\d+", "", entry["call"])
            names = ("registers", "instructions", "looped", "cycles", "turns")
            row = {name: entry[name] for name in names if name in entry}
            found.setdefault(f"sm_{entry['card']}", {})[f"{call}: {entry['kernel']}, warps={entry['warps']}"] = row
    return found


def worse(stored: Table, found: Table) -> list[str]:
    """What is worse than stored, or not stored, one line each."""
    problems = []
    for card, kernels in found.items():
        for kernel, row in kernels.items():
            before = stored.get(card, {}).get(kernel)
            if before is None:
                problems.append(f"{card} {kernel} is not stored")
                continue
            problems += [
                f"{card} {kernel}: {name} {before[name]} became {value}"
                for name, value in row.items()
                if name != "turns" and value > before[name] * ALLOWED
            ]
    return problems
