"""Where `--json` goes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rmeeto_bench.files import write_atomic


def write_json(value: Any, target: str | None) -> bool:
    """Write a value to a file, or to standard output for `-`; returns whether standard output is taken by it."""
    if target is None:
        return False
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return True
    write_atomic(Path(target), text)
    return False
