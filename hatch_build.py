"""Builds the CPU kernels into the wheel: one library for each instruction set; the best one is chosen at run time.

Without a compiler the wheel has none and is for every machine. RMEETO_BENCH_WHEEL_KERNELS=require makes that an error, as
releases need it, and =none leaves the kernels out. An editable install builds none: a checkout builds them on first use.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "rmeeto_bench/kernels/native/shipped"
WISHES = ("auto", "require", "none")


class KernelsHook(BuildHookInterface):
    """The hook that hatchling calls before and after it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels; add them and the platform's tag to the wheel."""
        wish = os.environ.get("RMEETO_BENCH_WHEEL_KERNELS") or "auto"
        if wish not in WISHES:
            raise SystemExit(f"RMEETO_BENCH_WHEEL_KERNELS={wish!r} is not known; choose {', '.join(WISHES)}")
        if version == "editable" or wish == "none":
            return
        self.scratch = tempfile.TemporaryDirectory(prefix="rmeeto-bench-kernels-")
        libraries, problems = self.compiled(Path(self.scratch.name))
        if problems and wish == "require":
            raise SystemExit(f"the CPU kernels could not be built: {'; '.join(problems)}")
        if problems:
            lacking = "lacks some" if libraries else "has no"
            self.app.display_warning(f"rmeeto-bench: this wheel {lacking} compiled CPU kernels: {'; '.join(problems)}")
        for path in libraries:
            build_data["force_include"][str(path)] = f"{PLACE}/{path.name}"
        if libraries:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
            build_data["pure_python"] = False

    def compiled(self, folder: Path) -> tuple[list[Path], list[str]]:
        """The libraries that could be built, with their digests, and for each other one the reason."""
        sys.path.insert(0, self.root)  # the one place that knows how to compile; it imports no torch
        from rmeeto_bench.errors import UnavailableError
        from rmeeto_bench.kernels.native.compiling import compile_library, compilers, file_name, instruction_sets

        sys.path.remove(self.root)
        commands, problems = compilers()
        if not commands:
            problems.append("no C++ compiler was found")
        for isa in instruction_sets() if commands else ():
            reasons = []
            for command in commands:
                try:
                    compile_library(command, isa, folder / file_name(isa))
                    break
                except UnavailableError as error:
                    reasons.append(str(error))
            else:
                problems += reasons
        return sorted(folder.iterdir()), list(dict.fromkeys(problems))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: the wheel has it."""
        if hasattr(self, "scratch"):
            self.scratch.cleanup()
