"""How far a stage is: a bar on a terminal, lines elsewhere, messages to the flow that runs it."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Protocol

PIPE = "PRETUNE_PROGRESS_PIPE"
MARK = "\x1e"  # ASCII record separator: begins a line that is a message, not output


class Progress(Protocol):
    """Somebody who is told how far a stage is."""

    def update(self, done: int, total: int, note: str) -> None:
        """`done` of `total` units are finished; `note` says how it goes."""

    def close(self) -> None:
        """The stage has ended."""


def for_stage(name: str) -> Progress:
    """Choose by where the output goes."""
    if os.environ.get(PIPE):
        return PipeProgress()
    return BarProgress(name) if sys.stderr.isatty() else LineProgress(name)


def message(line: str) -> dict[str, Any] | None:
    """The message in a line that PipeProgress wrote; None for ordinary output."""
    return dict(json.loads(line[1:])) if line.startswith(MARK) else None


class Clock:
    """How long it will take until all is done, judged by what has been done since the first call."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """As `2:13 left`; nothing where nothing can be said."""
        now = time.monotonic()
        began, before = self._first = self._first or (now, done)
        if done <= before or done >= total:
            return ""
        minutes, seconds = divmod(round((total - done) * (now - began) / (done - before)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"  {hours}:{minutes:02}:{seconds:02} left" if hours else f"  {minutes}:{seconds:02} left"


class PipeProgress:
    """Writes messages to standard output, five a second at most."""

    def __init__(self) -> None:
        self._last = 0.0

    def update(self, done: int, total: int, note: str) -> None:
        """See Progress."""
        now = time.monotonic()
        if now - self._last > 0.2 or done == total:
            self._last = now
            print(MARK + json.dumps({"done": done, "total": total, "note": note}), flush=True)

    def close(self) -> None:
        """See Progress."""


class LineProgress:
    """A line for every tenth: for logs."""

    def __init__(self, name: str) -> None:
        self._name, self._tenth, self._clock = name, 0, Clock()

    def update(self, done: int, total: int, note: str) -> None:
        """See Progress."""
        left = self._clock.left(done, total)
        if (tenth := done * 10 // total) > self._tenth:
            self._tenth = tenth
            print(f"{self._name}: {tenth * 10:3d} %  {note}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """See Progress."""


class BarProgress:
    """A bar with the time left."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=None, note="")
        self._bar.start()

    def update(self, done: int, total: int, note: str) -> None:
        """See Progress."""
        self._bar.update(self._task, completed=done, total=total, note=note)

    def close(self) -> None:
        """See Progress."""
        self._bar.stop()
