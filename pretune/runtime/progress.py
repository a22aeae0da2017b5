"""Progress of stages: bars on a terminal, lines elsewhere, messages to the flow that started the stage."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

from pretune.errors import TerminatedError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

PIPE = "PRETUNE_PROGRESS_PIPE"  # set if a flow reads the output of the stage
MARK = "\x1e"  # ASCII record separator: begins a line that is a message, not output
LINE_EVERY = 15.0  # seconds between two lines about the same stage
MESSAGE_EVERY = 0.2  # seconds


class Progress(Protocol):
    """Where one stage reports its progress."""

    def update(self, done: int, total: int, note: str) -> None:
        """`done` of `total` units are finished; `note` is shown beside the bar."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """The model was validated after `step` steps."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def close(self) -> None:
        """The stage has ended."""


class RunDisplay(Protocol):
    """Shows the stages of a run; called from several threads."""

    def start(self, stages: list[str]) -> None:
        """Show these stages as waiting, in this order."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def begin(self, stage: str) -> None:
        """A stage has started."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` units are finished."""

    def validated(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """A model was validated after `step` steps."""

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """A stage has ended: ran, restored, skipped or failed."""

    def close(self) -> None:
        """The run has ended."""


def for_run() -> RunDisplay:
    """Bars if standard error is a terminal, else lines; standard output stays free for results."""
    from rich.console import Console

    console = Console(stderr=True)
    return BarDisplay(console) if console.is_terminal else LineDisplay()


def for_stage(name: str) -> Progress:
    """Where a stage in this process reports: to the flow that started it, else to the user."""
    if os.environ.get(PIPE):
        return PipeProgress()
    display = for_run()
    display.start([name])
    display.begin(name)
    return StageProgress(display, name)


def message(line: str) -> dict[str, Any] | None:
    """The message in a line of a stage's output; None for ordinary output."""
    return dict(json.loads(line[1:])) if line.startswith(MARK) else None


def send(event: str, **content: Any) -> None:
    """Write a message to the flow on standard output. Raises TerminatedError if the flow has been killed."""
    try:
        print(MARK + json.dumps({"event": event, **content}), flush=True)
    except BrokenPipeError:  # the kernel is about to kill this process too; until then it has been stopped, not failed
        raise TerminatedError("the flow that started this stage has ended", "pretune run") from None


class PipeProgress:
    """Sends messages to the flow, at most one each MESSAGE_EVERY."""

    def __init__(self) -> None:
        self._last = 0.0

    def update(self, done: int, total: int, note: str) -> None:
        """Send the progress, unless the last message is too recent."""
        now = time.monotonic()
        if now - self._last > MESSAGE_EVERY or done == total:
            self._last = now
            send("progress", done=done, total=total, note=note)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the result of a validation."""
        send("validation", step=step, metrics=dict(metrics))

    def warn(self, text: str) -> None:
        """Send a warning."""
        send("warning", text=text)

    def close(self) -> None:
        """Nothing is left open."""


class StageProgress:
    """Reports one stage to a display on which it has begun."""

    def __init__(self, display: RunDisplay, name: str) -> None:
        self._display, self._name = display, name

    def update(self, done: int, total: int, note: str) -> None:
        """Show the progress."""
        self._display.progress(self._name, done, total, note)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass on the result of a validation."""
        self._display.validated(self._name, step, metrics)

    def warn(self, text: str) -> None:
        """Show a warning with the name of the stage."""
        self._display.warn(f"{self._name}: {text}")

    def close(self) -> None:
        """Close the display, which shows this stage only."""
        self._display.close()


class Clock:
    """Estimates the time left from the speed since the first call."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """Text as `  2:13 left`; "" if there is no estimate yet."""
        now = time.monotonic()
        start, done_at_start = self._first = self._first or (now, done)
        if done <= done_at_start or done >= total:
            return ""
        minutes, seconds = divmod(round((total - done) * (now - start) / (done - done_at_start)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"  {hours}:{minutes:02}:{seconds:02} left" if hours else f"  {minutes}:{seconds:02} left"


class LineDisplay(RunDisplay):
    """Prints a line when a stage starts, every LINE_EVERY seconds while it runs, and when it ends."""

    def __init__(self) -> None:
        self._last_line: dict[str, float] = {}
        self._clocks: dict[str, Clock] = {}
        self._lock = threading.Lock()
        self._width = 0

    @override
    def start(self, stages: list[str]) -> None:
        self._width = max(map(len, stages), default=0)

    @override
    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    @override
    def begin(self, stage: str) -> None:
        self._last_line[stage], self._clocks[stage] = time.monotonic(), Clock()
        self._print(stage, "…")

    @override
    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        left = self._clocks[stage].left(done, total)
        if time.monotonic() - self._last_line[stage] > LINE_EVERY:
            self._last_line[stage] = time.monotonic()
            self._print(stage, f"{done * 100 // total:3d} %  {note}{left}")

    @override
    def validated(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        pass  # the note of the progress shows the loss

    @override
    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        self._print(stage, outcome + (f" in {seconds:.0f} s" if outcome in {"ran", "failed"} else ""))

    @override
    def close(self) -> None:
        pass

    def _print(self, stage: str, text: str) -> None:
        with self._lock:
            print(f"{stage:<{self._width}} {text}", file=sys.stderr, flush=True)


class BarDisplay(RunDisplay):
    """A bar for each stage."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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

    @override
    def start(self, stages: list[str]) -> None:
        for stage in stages:
            self._tasks[stage] = self._bars.add_task(stage, total=None, start=False, note="[dim]waiting[/dim]")
        self._bars.start()

    @override
    def warn(self, text: str) -> None:
        self._bars.console.print(f"warning: {text}", style="yellow", markup=False)

    @override
    def begin(self, stage: str) -> None:
        self._clocks[stage] = Clock()
        self._bars.start_task(self._tasks[stage])
        self._bars.update(self._tasks[stage], note="running")

    @override
    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        note = f"{done * 100 // total:3d} %  {note}{self._clocks[stage].left(done, total)}"
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    @override
    def validated(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        pass  # the note of the progress shows the loss

    @override
    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        del seconds  # the bar shows the time that has passed
        colour = {"ran": "green", "failed": "red"}.get(outcome, "cyan")
        self._bars.update(self._tasks[stage], total=1, completed=1, note=f"[{colour}]{outcome}[/{colour}]")
        self._bars.stop_task(self._tasks[stage])

    @override
    def close(self) -> None:
        self._bars.stop()
