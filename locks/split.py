"""Takes what only a GPU needs out of cuda13.txt, for machines without one: writes cpu.txt and cpu-torch.txt."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
GPU_ONLY = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton\b)")
TORCH = re.compile(r"^(torch|torchvision)==")


def blocks(text: str) -> list[str]:
    """The requirements of a lock file, each with its hashes."""
    return re.findall(r"^\S.*(?:\n    .*)*", text, flags=re.MULTILINE)


def main() -> None:
    """Write both files."""
    kept = blocks((FOLDER / "cuda13.txt").read_text(encoding="utf-8"))
    torch = [block.split()[0] for block in kept if TORCH.match(block)]
    rest = [block for block in kept if not TORCH.match(block) and not GPU_ONLY.match(block)]
    (FOLDER / "cpu.txt").write_text("\n".join(rest) + "\n", encoding="utf-8")
    (FOLDER / "cpu-torch.txt").write_text("\n".join(torch) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
