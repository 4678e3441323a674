"""Where data files lie that ship with the package: in the wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from rmeeto_bench.errors import UnavailableError

PACKAGE = Path(__file__).parent
PLACES = {
    "profiles": (PACKAGE / "_profiles", PACKAGE.parent / "profiles"),
    "paper": (PACKAGE / "_paper", PACKAGE.parent / "results" / "paper"),
}


def shipped(name: str) -> Path:
    """The folder `profiles` or `paper`. Raises `UnavailableError` for a broken installation."""
    for place in PLACES[name]:
        if place.is_dir():
            return place
    raise UnavailableError(f"the {name} that ship with rmeeto-bench are missing; install the package again")
