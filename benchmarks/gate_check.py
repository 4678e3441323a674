"""Does the gate catch a planted slow-down of this machine's own program, and pass an unchanged one?

    python benchmarks/gate_check.py --slow-down 5% --margin 2% --out results/gate/NAME.json

Two gates of real processes on a CPU or a GPU: the package against itself with a sleep planted in every forward of a Vim, and
against an identical copy. Exit code 0 if the first fails and the second passes. Wants a machine that is left alone.
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


def main() -> int:
    """Run both gates; 0 if both came out as they should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow-down", default="5%", metavar="P%")
    parser.add_argument("--margin", default="2%", metavar="P%")
    parser.add_argument("--r", default="0,20", metavar="LIST")
    parser.add_argument("--batch-size", default="8", metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    flags = ["--gpus", "none", "--checkpoints", "none", "--r", arguments.r, "--batch-size", arguments.batch_size]
    flags += ["--margin", arguments.margin]
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
