"""How far an accuracy pass is, as its worker tells it and the parent adds it up. No torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class PassProgress:
    """How far one share of a pass is, or all of them together."""

    done: int  # images that went through all arms, those of an interrupted pass before this one included
    total: int  # images of the share
    earlier: int  # images of that interrupted pass
    read: int  # images of those done that could be read
    correct: dict[str, int]  # arm -> images of those read that it got right
    seconds: float  # since the start

    def top1(self, arm: str) -> float:
        """Percent so far."""
        return 100 * self.correct[arm] / max(1, self.read)

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return self.seconds / max(1, self.done - self.earlier) * (self.total - self.done)

    def words(self) -> str:
        """`top-1 % r0 79.1 r11 78.4, 3.2 min left`."""
        one = len({name.rpartition("/")[0] for name in self.correct}) == 1
        accuracies = " ".join(f"{name.rpartition('/')[2] if one else name} {self.top1(name):.1f}" for name in self.correct)
        left = self.seconds_left
        return f"top-1 % {accuracies}, " + (f"{left / 60:.1f} min left" if left >= 60 else f"{left:.0f} s left")


def joined(parts: Collection[PassProgress]) -> PassProgress:
    """The progress of all shares as one."""
    return PassProgress(
        done=sum(part.done for part in parts),
        total=sum(part.total for part in parts),
        earlier=sum(part.earlier for part in parts),
        read=sum(part.read for part in parts),
        correct={name: sum(part.correct.get(name, 0) for part in parts) for name in next(iter(parts)).correct},
        seconds=max(part.seconds for part in parts),
    )
