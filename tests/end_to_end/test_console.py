from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
NOISE = re.compile(r"warning|traceback|error|exception|deprecat|experimental|critical|alembic", re.IGNORECASE)
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def assert_clean(printed):
    """No line that a user would have to wonder about, the table of the models, then what to do next."""
    assert [line for line in printed.splitlines() if NOISE.search(line)] == []
    for model in ("finetuned from the pretrained model", "the same model from scratch", "majority baseline"):
        (row,) = [line for line in printed.splitlines() if model in line and "│" in line]
        assert re.search(r"\d\.\d{3} +│ +\d\.\d{3} - \d\.\d{3}", row), row
    end = printed[printed.index("majority baseline") :]
    assert "pretune ui" in end
    assert "pretune trace" in end
    assert "…" not in end, "a stage reports after the table"


def test_first_run_through_a_pipe_prints_nothing_to_worry_about(finished):
    """Both streams of a first `pretune run` hold a line per stage, the table and where to look next; no warning."""
    printed = (finished.root.parent / "console.txt").read_text(encoding="utf-8")
    assert_clean(printed)
    assert "\x1b" not in printed
    for stage in finished.stages():
        assert re.search(rf"^{stage} +ran in \d+ s$", printed, re.MULTILINE)


def test_first_run_on_a_terminal_prints_nothing_to_worry_about(workspace, finished):
    """The same on a terminal, with a bar for each stage, and the same bytes in this other folder."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cli.app", "run"]
    with subprocess.Popen(
        command, cwd=workspace.root, env=workspace.environment(TERM="xterm-256color", COLUMNS="120", LINES="50"),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    ) as run:  # fmt: skip
        os.close(theirs)
        printed = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            printed += part
    os.close(ours)
    assert run.returncode == 0, printed
    text = ANSI.sub("", printed.decode().replace("\r\n", "\n").replace("\r", "\n"))
    assert_clean(text)
    assert b"\x1b[" in printed
    assert printed.count(b"\x1b[?25l") == printed.count(b"\x1b[?25h") == 1  # one set of bars; the cursor is back
    for stage in workspace.stages():
        assert re.search(rf"^ *{stage} .*\bran\b", text, re.MULTILINE)
    assert workspace.hashes() == finished.hashes()


def test_second_run_prints_nothing_to_worry_about(copy):
    """A run with nothing to do says so stage by stage and ends with the same table."""
    printed = copy.pretune("run", "--no-prefect")
    assert_clean(printed)
    for stage in copy.stages():
        assert re.search(rf"^{stage} +skipped$", printed, re.MULTILINE)
