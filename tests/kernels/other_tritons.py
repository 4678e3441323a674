"""Do the kernels compile, and agree with the reference under the interpreter, with other releases than those installed?

    python tests/kernels/other_tritons.py triton==3.2.0,numpy==2.2.6 triton==3.6.0,numpy==2.2.6

Each argument is a set of packages. They are put, without what they need, into a folder of their own that comes before the
installed ones; torch stays. Prints a line for each, and ends with 1 if a kernel fails to compile, spills or errs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PARITY = "test_scan_matches or test_conv_matches or test_add_norm_matches or test_merge_kernels or as_upstream_did"


def attempt(packages: list[str]) -> str:
    """What is wrong with these packages; empty if nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *packages]
        subprocess.run(install, check=True)
        environment = os.environ | {"PYTHONPATH": folder, "TRITON_CACHE_DIR": f"{folder}/cache"}
        environment.pop("TRITON_INTERPRET", None)
        script = [sys.executable, str(HERE / "compile_kernels.py")]
        compiled = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:  # a compiler that aborts leaves its last words
            return f"compiling ended with {compiled.returncode}: {(compiled.stderr.strip().splitlines() or ['?'])[-1]}"
        report = json.loads(compiled.stdout)
        wrong = [entry for entry in report if "error" in entry or entry["stack"]]
        if wrong:
            return f"{len(wrong)} of {len(report)} launches fail or spill, the first: {wrong[0]}"
        print(f"{' '.join(packages)}: {len(report)} launches compiled, no spills", flush=True)
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(HERE / "test_triton.py"), "-k", PARITY]
        tested = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        last = tested.stdout.strip().splitlines()[-1]
        print(f"{' '.join(packages)}: {last}", flush=True)
        return "" if tested.returncode == 0 else last


if __name__ == "__main__":
    problems = [attempt(words.split(",")) for words in sys.argv[1:]]
    print("\n".join(filter(None, problems)))
    sys.exit(any(problems))
