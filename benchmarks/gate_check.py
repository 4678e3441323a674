"""Does the gate do what docs/method.md says: on simulated gates, and with real processes on this machine?

    python benchmarks/gate_check.py --simulate
    python benchmarks/gate_check.py --slow-down 5% --margin 2% --out results/gate/NAME.json

The first prints the tables of docs/method.md, from the gate's own rule on many simulated gates. The second runs two gates of
real processes on a CPU or a GPU: the package against itself with a sleep planted in every forward of a Vim, and against an
identical copy. Exit code 0 if the first fails and the second passes. Wants a machine that is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLANTED = """

def _slow(self, images, _forward=Vim.forward):
    import time

    start = time.perf_counter()
    logits = _forward(self, images)
    time.sleep({share} * (time.perf_counter() - start))
    return logits


Vim.forward = _slow
"""
EXPECTED = {"planted": "FAIL", "identical": "PASS"}


def copy(target: Path) -> Path:
    """The package with what it needs beside it, without the repository around it."""
    shutil.copytree(ROOT / "rmeeto_bench", target / "rmeeto_bench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("profiles", "results"):
        (target / name).symlink_to(ROOT / name)
    return target


def plant(target: Path, share: float) -> Path:
    """Make every forward of a Vim slower by this share of its own time. On a GPU the host must wait for it: use a CPU."""
    path = target / "rmeeto_bench" / "models" / "vim.py"
    path.write_text(path.read_text(encoding="utf-8") + PLANTED.format(share=share), encoding="utf-8")
    return target


def gate(base: Path, head: Path, flags: list[str], result: Path) -> dict[str, Any]:
    """One gate as a user would run it; its JSON, or its exit code where there is none."""
    words = ["gate", "--base", str(base), "--head", str(head), "--json", str(result), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = subprocess.run([sys.executable, "-m", "rmeeto_bench", *words], env=environment, check=False).returncode
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"outcome": "none"}
    return {**found, "base": "base", "head": head.name, "exit_code": code}


def simulate(trials: int = 40_000, pairs: int = 6, margin: float = 0.0075) -> None:
    """Print what the rule does where the truth is known: 0.4 % between processes, three arms, one of which loses."""
    import numpy as np

    from rmeeto_bench.compare.gate_power import ARMS, PairNoise, draw, outcomes
    from rmeeto_bench.compare.gate_rule import FAILS, PASSES, UNCLEAR

    def shares(changes: list[float], process_sd: float, seed: int) -> dict[int, float]:
        rate_sd = float(np.sqrt(2 * (process_sd**2 + 0.001**2)))  # 0.1 %: what eight rounds leave of the noise of blocks
        noise = PairNoise(rate_sd, rate_sd * float(np.sqrt(2)))
        judged = outcomes(draw(noise, changes, 2 * pairs, trials, seed), pairs, margin)
        return {code: float(np.mean(judged == code)) for code in (PASSES, UNCLEAR, FAILS)}

    print("| true change | PASS | INCONCLUSIVE | FAIL |\n| --- | ---: | ---: | ---: |")
    for percent in (0.0, 0.5, 0.75, 1.0, 1.5, 2.0):
        found = shares([0.0] * (ARMS - 1) + [float(np.log1p(-percent / 100))], 0.004, 100)
        name = f"-{percent:g} %" if percent else "none"
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found.values()) + " |")
    print("\n| process sd | wrong FAIL, one arm | wrong FAIL, three arms | wrong PASS |\n| --- | ---: | ---: | ---: |")
    for process_sd in (0.002, 0.004, 0.01, 0.04):
        wrong = [shares([-margin] * arms, process_sd, 200 + arms)[FAILS] for arms in (1, ARMS)]
        wrong.append(shares([-2 * margin], process_sd, 300)[PASSES])
        print(f"| {100 * process_sd:g} % | " + " | ".join(f"{value:.3f}" for value in wrong) + " |")
    found = shares([0.015, 0.0, 0.0], 0.004, 400)
    print(f"\nr = 0 faster by 1.5 %, the others unchanged: PASS {found[PASSES]:.3f}, FAIL {found[FAILS]:.3f}")
    print(f"standard error of a share near 0.05: {np.sqrt(0.05 * 0.95 / trials):.4f} ({trials:,} gates each)")


def main() -> int:
    """Run both gates; 0 if both came out as they should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-down", default="5%", metavar="P%")
    parser.add_argument("--margin", default="2%", metavar="P%")
    parser.add_argument("--r", default="0,20", metavar="LIST")
    parser.add_argument("--batch-size", default="8", metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--simulate", action="store_true", help="print the tables of docs/method.md instead")
    arguments = parser.parse_args()
    if arguments.simulate:
        simulate()
        return 0
    flags = ["--gpus", "none", "--checkpoints", "none", "--r", arguments.r, "--batch-size", arguments.batch_size]
    flags += ["--margin", arguments.margin, "--images", "200"]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = copy(folder / "base")
        heads = {
            "planted": plant(copy(folder / "planted"), float(arguments.slow_down.removesuffix("%")) / 100),
            "identical": copy(folder / "identical"),
        }
        for name, head in heads.items():
            results[name] = gate(base, head, flags, folder / f"{name}.json")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, wanted in EXPECTED.items():
        print(f"{name}: {results[name]['outcome']} (should be {wanted})")
    return 0 if all(results[name]["outcome"] == wanted for name, wanted in EXPECTED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
