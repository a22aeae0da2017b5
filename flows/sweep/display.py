"""What a sweep shows while it runs: a line for each trial that ends and, on a terminal, bars with the time left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pretune.runtime.progress import LINE_EVERY, Clock

if TYPE_CHECKING:
    from rich.console import Console


class SweepDisplay:
    """Shows a sweep on standard error. total: runs, seeds counted one by one; 0 if it is not known."""

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._total, self._done, self._best = total, done, ""
        self._clock, self._last = Clock(), time.monotonic()
        self._clock.left(done, max(total, done + 1))
        self._bars: Any = None
        self._running: dict[str, Any] = {}
        if self._console.is_terminal:
            self._start_bars()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def running(self, name: str, note: str, done: int = 0, total: int = 0) -> None:
        """What a run is doing."""
        if self._bars:
            if name not in self._running:
                self._running[name] = self._bars.add_task(name, total=None, note="")
            self._bars.update(self._running[name], completed=done, total=total or None, note=note)
        elif time.monotonic() - self._last > LINE_EVERY:
            self._last = time.monotonic()
            share = f"{100 * done // total:3d} %  " if total else ""
            print(f"  {name}: {share}{note}{self._left()}", file=sys.stderr, flush=True)

    def ended(self, name: str) -> None:
        """A run has ended."""
        self._done += 1
        if self._bars and name in self._running:
            self._bars.remove_task(self._running.pop(name))
        self._update()

    def best(self, text: str) -> None:
        """The best trial so far."""
        self._best = text
        self._update()

    def close(self) -> None:
        """Nothing more is shown."""
        if self._bars:
            self._bars.stop()

    def _left(self) -> str:
        return self._clock.left(self._done, self._total) if self._total else ""

    def _start_bars(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=self._console,
        )  # fmt: skip
        self._all = self._bars.add_task("sweep", total=self._total or None, completed=self._done, note="")
        self._bars.start()

    def _update(self) -> None:
        if self._bars:
            count = f"{self._done} of {self._total} runs" if self._total else f"{self._done} runs"
            note = "  ".join(filter(None, [count, self._best])) + self._left()
            self._bars.update(self._all, completed=self._done, note=note)
