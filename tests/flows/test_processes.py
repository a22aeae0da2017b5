from __future__ import annotations

from types import SimpleNamespace

from flows.processes import StageProcesses
from pretune.runtime.progress import PipeProgress


def test_a_warning_of_a_stage_reaches_the_display_of_the_run(tmp_path, capsys):
    """With the name of the stage; what the stage prints otherwise goes to its log."""
    PipeProgress().warn("2 rows are bad")
    PipeProgress().update(1, 1, "")
    child = SimpleNamespace(stdout=[*capsys.readouterr().out.split("\n")[:-1], "a line\n"])
    shown = []
    display = SimpleNamespace(warn=shown.append, progress=lambda *_: None)
    assert StageProcesses._follow(SimpleNamespace(_display=display), "ingest", child, tmp_path / "log") is None
    assert shown == ["ingest: 2 rows are bad"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "a line\n"
