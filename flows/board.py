"""What a pipeline run shows while it works: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pretune.progress import Clock

LINE_EVERY = 15.0  # seconds between two lines about the same stage


class Board(Protocol):
    """Somebody who is shown what the stages do; called from several threads."""

    def start(self, stages: list[str]) -> None:
        """These stages will be dealt with, in this order."""

    def warn(self, text: str) -> None:
        """Something that the user may not have meant."""

    def begin(self, stage: str) -> None:
        """A stage is being run."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` units are finished."""

    def finish(self, stage: str, how: str, seconds: float) -> None:
        """A stage has ended: ran, restored, skipped or failed."""

    def close(self) -> None:
        """The pipeline run has ended."""


def choose() -> Board:
    """Bars where somebody is watching; either on standard error, so that results can be piped."""
    console = Console(stderr=True)
    return BarBoard(console) if console.is_terminal else LineBoard()


class LineBoard:
    """A line when a stage begins, goes on for long, and ends."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._clocks: dict[str, Clock] = {}
        self._lock = threading.Lock()
        self._width = 0

    def start(self, stages: list[str]) -> None:
        """See Board."""
        self._width = max(map(len, stages), default=0)

    def warn(self, text: str) -> None:
        """See Board."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def begin(self, stage: str) -> None:
        """See Board."""
        self._said[stage], self._clocks[stage] = time.monotonic(), Clock()
        self._say(stage, "…")

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """See Board."""
        left = self._clocks[stage].left(done, total)
        if time.monotonic() - self._said[stage] > LINE_EVERY:
            self._said[stage] = time.monotonic()
            self._say(stage, f"{done * 100 // total:3d} %  {note}{left}")

    def finish(self, stage: str, how: str, seconds: float) -> None:
        """See Board."""
        self._say(stage, how + (f" in {seconds:.0f} s" if how in {"ran", "failed"} else ""))

    def close(self) -> None:
        """See Board."""

    def _say(self, stage: str, text: str) -> None:
        with self._lock:
            print(f"{stage:<{self._width}} {text}", file=sys.stderr, flush=True)


class BarBoard:
    """One bar a stage."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._clocks: dict[str, Clock] = {}

    def start(self, stages: list[str]) -> None:
        """See Board."""
        for stage in stages:
            self._tasks[stage] = self._bars.add_task(stage, total=None, start=False, note="[dim]waiting[/dim]")
        self._bars.start()

    def warn(self, text: str) -> None:
        """See Board."""
        self._bars.console.print(f"warning: {text}", style="yellow", markup=False)

    def begin(self, stage: str) -> None:
        """See Board."""
        self._clocks[stage] = Clock()
        self._bars.start_task(self._tasks[stage])
        self._bars.update(self._tasks[stage], note="running")

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """See Board."""
        note = f"{done * 100 // total:3d} %  {note}{self._clocks[stage].left(done, total)}"
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def finish(self, stage: str, how: str, seconds: float) -> None:
        """See Board."""
        del seconds  # the bar shows the time that has passed
        colour = {"ran": "green", "failed": "red"}.get(how, "cyan")
        self._bars.update(self._tasks[stage], total=1, completed=1, note=f"[{colour}]{how}[/{colour}]")
        self._bars.stop_task(self._tasks[stage])

    def close(self) -> None:
        """See Board."""
        self._bars.stop()
