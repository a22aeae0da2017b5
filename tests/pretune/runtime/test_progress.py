from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest

from pretune.errors import TerminatedError
from pretune.runtime import progress
from pretune.runtime.progress import PipeProgress, StageProgress


def test_a_message_survives_the_pipe(capsys):
    """What the stage prints for the flow is read back as it was; other lines are no messages."""
    PipeProgress().update(20, 20, "loss 1.000 [bold]")
    line = capsys.readouterr().out
    assert progress.message(line) == {"event": "progress", "done": 20, "total": 20, "note": "loss 1.000 [bold]"}
    assert progress.message("an ordinary line\n") is None


def test_a_warning_reaches_the_terminal_or_the_flow(capsys, monkeypatch):
    """With the name of the stage; under a flow as a message."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    progress.for_stage("ingest").warn("2 rows are bad")
    assert "warning: ingest: 2 rows are bad" in capsys.readouterr().err
    PipeProgress().warn("2 rows are bad")
    assert progress.message(capsys.readouterr().out) == {"event": "warning", "text": "2 rows are bad"}


def test_the_end_is_always_told(capsys):
    """Messages in between may be left out, the last one is not."""
    pipe = PipeProgress()
    for done in range(1, 1001):
        pipe.update(done, 1000, "")
    lines = capsys.readouterr().out.strip("\n").split("\n")
    assert progress.message(lines[-1])["done"] == 1000
    assert len(lines) < 1000


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    """One when the stage starts, then one each LINE_EVERY seconds."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    seconds = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds) / 2)
    lines = progress.for_stage("pretrain")
    for done in range(1, 101):
        lines.update(done, 100, "x")
    lines.close()
    written = capsys.readouterr().err.splitlines()
    assert written[0] == "pretrain …"
    assert 3 < len(written) < 20
    assert all(re.fullmatch(r"pretrain +\d+ %  x(  \d+:\d\d left)?", line) for line in written[1:])


def test_a_flow_is_told_by_messages_and_a_log_by_lines(monkeypatch):
    """The choice follows the environment and the terminal."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(progress.for_stage("x"), StageProgress)
    os.environ[progress.PIPE] = "1"
    assert isinstance(progress.for_stage("x"), PipeProgress)


def test_a_stage_without_its_flow_is_stopped(monkeypatch):
    """The flow was killed, so nobody reads: the stage ends as KILLED, not as FAILED by a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w", encoding="utf-8")
    monkeypatch.setattr("sys.stdout", pipe)
    with pytest.raises(TerminatedError):
        PipeProgress().update(1, 1, "")
    with suppress(BrokenPipeError):  # what is left is written again
        pipe.close()


def test_a_clock_tells_what_is_left(monkeypatch):
    """Judged from its first call on, so that a resumed run does not look faster."""
    now = iter([100.0, 110.0, 120.0, 400.0, 500.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    clock = progress.Clock()
    expected = ["", "  3:10 left", "  1:00 left", "  11:40 left", ""]
    assert [clock.left(done, 300) for done in (100, 110, 150, 160, 300)] == expected
    now = iter([0.0, 100.0])
    clock = progress.Clock()
    assert [clock.left(done, 1000) for done in (0, 10)] == ["", "  2:45:00 left"]
