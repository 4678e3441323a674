"""`rmeeto-bench profiles`: the GPUs that are known by name."""

from __future__ import annotations

import argparse

from rmeeto_bench.cli import output


def add_arguments(_: argparse.ArgumentParser) -> None:
    """No flags."""


def main(_: argparse.Namespace) -> int:
    """Print the profiles."""
    from rmeeto_bench.profiles import load_profiles
    from rmeeto_bench.report.fitted import of_texts

    rows = [
        {
            "profile": profile.name,
            "GPU": profile.display,
            "cc": profile.compute_capability,
            "fp16\nTFLOP/s": f"{profile.fp16_tflops:g}",
            "GB/s": f"{profile.bandwidth_gbs:g}",
            "W": str(profile.power_w),
            "in the\npaper": profile.paper_column,
            "software": profile.software,
        }
        for profile in load_profiles()
        if profile.name != "cpu"
    ]
    console = output.console()
    console.print(
        of_texts(None, rows, console.width, left=("profile", "GPU", "in the\npaper", "software"), first=("software",))
    )
    return 0
