"""`rmeeto-bench profiles`: the GPUs that are known by name."""

from __future__ import annotations

import argparse

from rmeeto_bench.cli import output


def add_arguments(_: argparse.ArgumentParser) -> None:
    """No flags."""


def main(_: argparse.Namespace) -> int:
    """Print the profiles."""
    from rich.table import Table

    from rmeeto_bench.profiles import load_profiles

    table = Table("profile", "GPU", "cc", "fp16 TFLOP/s", "GB/s", "W", "in the paper", "software", box=None)
    for profile in load_profiles():
        if profile.name != "cpu":
            rates = (f"{profile.fp16_tflops:g}", f"{profile.bandwidth_gbs:g}", str(profile.power_w))
            table.add_row(
                profile.name,
                profile.display,
                profile.compute_capability,
                *rates,
                profile.paper_column,
                profile.software,
            )
    output.console().print(table)
    return 0
