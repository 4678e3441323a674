"""The caller's side of a run, and what it is told while the run works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rmeeto_bench.bench.run.processes import Process, launch
from rmeeto_bench.bench.session.context import Job
from rmeeto_bench.bench.session.progress import PassProgress, joined
from rmeeto_bench.measure.rounds import RoundsProgress


@dataclass(frozen=True)
class News:
    """One thing that a run tells while it works. With several devices at once, news come from several threads."""

    text: str  # what the user should see: a note, or the stage that the work moved on to; empty for progress in a stage
    device: str = ""  # name of the device; of several that share the work, with commas; empty: a note
    model: str = ""  # that moved on to another stage
    progress: RoundsProgress | PassProgress | None = None  # a warm-up cycle or a round is done, or a batch was evaluated


@dataclass(frozen=True)
class Controls:
    """What a caller decides. Nothing of this changes what is measured, and a resumed run may have it otherwise."""

    tell: Callable[[News], None] = lambda _: None  # is told what goes on
    should_stop: Callable[[], bool] = lambda: False  # asked between two pieces of work
    launch: Callable[[Job], Process] = launch  # starts a worker
    workers: int | None = None  # processes that decode images for it; None: one per core
    arms: tuple[str, ...] = ()  # of a plan, those whose code may be imported: the caller named them

    def note(self, text: str) -> None:
        """Tell a decision or a warning."""
        self.tell(News(text))


@dataclass
class Telling:
    """Tells what the workers of one job say. What several say is told once, and their progress is one."""

    tell: Callable[[News], None]  # of the controls
    device: str  # names of the devices at work
    _said: set[News] = field(default_factory=set)  # what one of them said
    _shares: dict[int, PassProgress] = field(default_factory=dict)  # number of a share -> how far it is
    _lock: threading.Lock = field(default_factory=threading.Lock)  # shares have a thread each

    def hear(self, share: int, event: dict[str, Any]) -> None:
        """An event of the worker that does this share."""
        with self._lock:
            if event["event"] == "timing":
                rounds = {name: value for name, value in event.items() if name != "event"}
                self.tell(News("", self.device, progress=RoundsProgress(**rounds)))
            elif event["event"] == "evaluating":
                self._shares[share] = PassProgress(**event["progress"])
                self.tell(News("", self.device, progress=joined(self._shares.values())))
            elif event["event"] in ("note", "stage"):
                staged = event["event"] == "stage"
                news = News(event["stage"], self.device, event["model"]) if staged else News(event["text"])
                if news not in self._said:
                    self._said.add(news)
                    self.tell(news)
