from __future__ import annotations

import subprocess

import pytest

from flows import events
from flows.watch import watch
from pretune import process
from pretune.errors import WorkspaceError


@pytest.fixture
def told(monkeypatch):
    """The stages of each event that was sent."""
    sent = []
    monkeypatch.setattr(
        events,
        "emit",
        lambda root, event, subject, payload: sent.append([stage["stage"] for stage in payload["stages"]]),
    )
    return sent


def git(folder, *arguments):
    """`git …` in a folder."""
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def test_what_is_out_of_date_is_told_once(done, told):
    """Nothing while all is fresh; data that changed once; again when they change again, or back."""
    source = done / "source.txt"
    fresh = source.read_text(encoding="utf-8")
    assert watch.fn() == []
    for text in ("other\n", "other\n", "a third\n", fresh, "a third\n"):
        source.write_text(text, encoding="utf-8")
        watch.fn()
    assert told == [["ingest", "prepare", "finetune", "scratch"]] * 3


def test_nothing_is_pulled_while_a_pipeline_runs(done, told):
    """The workspace of a run stays as it is; the change is seen the next time."""
    (done / "source.txt").write_text("other\n", encoding="utf-8")
    with process.lock(done / ".pretune" / "locks" / "run.lock", "a pipeline run"):
        assert watch.fn(pull=True) == []
    assert told == []
    assert watch.fn() == ["ingest", "prepare", "finetune", "scratch"]


def test_new_commits_are_taken_over(done, tmp_path, told):
    """`pull` brings what the upstream has; where that cannot be merged, git's message ends the run."""
    git(done, "add", "--all")
    git(done, "commit", "--quiet", "--message", "results")
    git(tmp_path, "clone", "--quiet", str(done), "theirs")
    git(done, "remote", "add", "origin", str(tmp_path / "theirs"))
    theirs = tmp_path / "theirs"
    (theirs / "pretune" / "helper.py").write_text("HELP = 2\n", encoding="utf-8")
    git(theirs, "commit", "--quiet", "--all", "--message", "help more")
    git(done, "fetch", "--quiet")
    branch = subprocess.run(
        ["git", "branch", "--show-current"], cwd=done, check=True, capture_output=True, text=True
    ).stdout.strip()
    git(done, "branch", "--quiet", f"--set-upstream-to=origin/{branch}")
    assert watch.fn(pull=True) == ["ingest", "prepare", "finetune", "scratch"]
    (done / "source.txt").write_text("mine\n", encoding="utf-8")
    (theirs / "source.txt").write_text("theirs\n", encoding="utf-8")
    git(theirs, "commit", "--quiet", "--all", "--message", "data")
    with pytest.raises(WorkspaceError, match=r"git pull: .*source\.txt"):
        watch.fn(pull=True)
