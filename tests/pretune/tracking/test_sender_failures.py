"""What becomes of records when writers die and servers are away: with real processes and databases."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cli.doctor import _tracking, _versions
from pretune.errors import WorkspaceError
from pretune.tracking import client
from pretune.tracking.client import connect, tag_name
from pretune.tracking.sender import Sender

pytestmark = pytest.mark.slow  # starts processes that import MLflow

KILLED = """
import os, pathlib, signal, sys
from pretune.tracking.journal import Run
run = Run(pathlib.Path(sys.argv[1]), "pretrain", tags={})
run.metrics({"loss": 1.5}, 10)
os.kill(os.getpid(), signal.SIGKILL)
"""
CONNECT = """
import pathlib, sys
from cli.doctor import _tracking
from pretune.tracking.client import connect
root = pathlib.Path(sys.argv[1])
print(connect(root, root / ".pretune")[1])
"""
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def close(sender, runs):
    """Close a sender and wait for its process, which may outlive the run."""
    warning = sender.close(runs)
    sender._process.wait()
    return warning


def test_the_run_of_a_killed_writer_ends_as_killed(tracked):
    """After `kill -9` the run does not stay RUNNING, and what it recorded is there."""
    done = subprocess.run([sys.executable, "-c", KILLED, tracked.state], check=False)
    assert done.returncode == -9
    tracked.send()
    sent = tracked.sent()["pretrain"]
    assert sent.info.status == "KILLED"
    assert sent.data.metrics == {"loss": 1.5}
    assert not tracked.waiting()


def test_a_sender_sends_and_says_nothing(tracked):
    """`close` waits until what was recorded has arrived, and returns no warning."""
    run = tracked.run("ingest")
    sender = Sender(tracked.root, tracked.state).start()
    run.metrics({"documents": 3})
    run.end("FINISHED")
    assert close(sender, [run]) == ""
    assert tracked.sent()["ingest"].data.metrics == {"documents": 3.0}


def test_without_a_server_records_are_kept_and_sent_later(tracked):
    """Nobody answers: a warning that says where the record lies; the next sender brings it in."""
    os.environ |= NOWHERE
    lost = tracked.run("lost")
    lost.metrics({"loss": 2.0})
    sender = Sender(tracked.root, tracked.state).start()
    lost.end("FINISHED")
    warning = close(sender, [lost])
    assert "127.0.0.1:9" in warning
    assert str(tracked.state / "journal") in warning
    assert tracked.waiting() == [lost.path]

    del os.environ["MLFLOW_TRACKING_URI"]
    run = tracked.run("next")
    sender = Sender(tracked.root, tracked.state).start()
    run.end("FINISHED")
    assert close(sender, [run, lost]) == ""
    sent = tracked.sent()
    assert set(sent) == {"lost", "next"}
    assert sent["lost"].data.metrics == {"loss": 2.0}
    assert sent["lost"].info.status == "FINISHED"


def test_recording_does_not_wait_for_a_server(tracked):
    """With nobody there, a thousand events are written and read back before any sender is asked."""
    os.environ |= NOWHERE
    run = tracked.run("long")
    for step in range(1000):
        run.metrics({"loss": 1.0}, step)
    run.end("FINISHED")
    assert len(run.path.read_text(encoding="utf-8").splitlines()) == 1002


def test_four_processes_may_create_the_database_at_once(tmp_path):
    """All four connect to the same experiment; none crashes on the file that another is making."""
    children = [
        subprocess.Popen([sys.executable, "-c", CONNECT, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [child.communicate()[0].strip().splitlines()[-1:] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len(set(map(tuple, answers))) == 1
    assert connect(tmp_path, tmp_path / ".pretune")[1] == answers[0][0]


def test_records_of_a_deleted_experiment_wait_until_it_is_restored(tracked):
    """A warning, and nothing is lost: `pretune doctor` names the problem, `--fix` restores, the next run sends."""
    client, experiment = connect(tracked.root, tracked.state)
    client.delete_experiment(experiment)
    run = tracked.run("ingest")
    run.end("FINISHED")
    warning = close(Sender(tracked.root, tracked.state).start(), [run])
    assert "the experiment pretune was deleted in MLflow" in warning
    assert [path.stem for path in tracked.waiting()] == [run.id]
    assert "1 runs are not in MLflow yet (the experiment" in Sender(tracked.root, tracked.state).backlog()
    (found, waiting) = _tracking(tracked.root, fix=False)
    assert (found.state, found.fix) == ("problem", "pretune doctor --fix   (restores it)")
    assert "1 runs wait" in waiting.detail
    assert [finding.state for finding in _tracking(tracked.root, fix=True)] == ["fixed", "problem"]
    assert close(Sender(tracked.root, tracked.state).start(), [run]) == ""
    assert set(tracked.sent()) == {"ingest"}
    assert Sender(tracked.root, tracked.state).backlog() == ""
    assert [finding.state for finding in _tracking(tracked.root, fix=False)] == ["ok"]


def purge(tracked, run):
    """Have MLflow forget a run of which a part was sent."""
    tracked.send()
    client, _ = connect(tracked.root, tracked.state)
    run_id = run.path.with_suffix(".sent").read_text(encoding="utf-8").split()[0]
    client.delete_run(run_id)
    client._tracking_client.store._hard_delete_run(run_id)
    run.end("FINISHED")


def rewrite(content):
    """Have a journal hold something else."""

    def damage(_tracked, run):
        run.end("FINISHED")
        run.path.write_bytes(content)

    return damage


DAMAGES = {
    "purged": purge,
    "torn": rewrite(b'{"event": "sta\n'),
    "zeros": rewrite(b"\0" * 9 + b"\n"),
    "empty": rewrite(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_record_that_cannot_be_sent_holds_up_no_other(tracked, damage):
    """It is kept, with the reason, and reported by `pretune doctor`; those after it arrive."""
    bad = tracked.run("bad")
    damage(tracked, bad)
    good = tracked.run("good")
    good.end("FINISHED")
    tracked.send()
    assert set(tracked.sent()) == {"good"}
    assert bad.path.with_suffix(".refused").is_file()
    reason = bad.path.with_suffix(".refused.txt").read_text(encoding="utf-8")
    assert "not found" in reason or "damaged" in reason
    (_, finding) = _tracking(tracked.root, fix=False)
    assert (finding.state, reason in finding.detail) == ("problem", True)


@pytest.mark.parametrize("is_made", [True, False], ids=["answer-lost", "request-lost"])
def test_what_is_made_in_mlflow_is_made_once_though_the_answer_is_lost(is_made, monkeypatch):
    """MLflow's client does not repeat the request; it is repeated here if nothing was made. Its settings return."""
    monkeypatch.setenv(client.RETRIES, "7")
    made, retries = [], []

    def create():
        retries.append(os.environ[client.RETRIES])
        if is_made or len(retries) > 1:
            made.append("run")
        if len(retries) == 1:
            raise ConnectionResetError
        return "run"

    assert client.create_once(create, lambda: next(iter(made), None)) == "run"
    assert made == ["run"]
    assert set(retries) == {"0"}
    assert os.environ[client.RETRIES] == "7"


def test_no_two_labels_get_one_name():
    """Any number of labels that differ only in characters that MLflow does not take."""
    labels = [f"f1/{chr(code)}" for code in range(0x1F000, 0x1F900)]
    assert len(set(map(tag_name, labels))) == len(labels)


@pytest.mark.parametrize("name", ["what?", "50%20off"])
def test_a_database_that_would_lie_elsewhere_is_refused(tmp_path, monkeypatch, name):
    """MLflow reads such a path as another one: an error with the way out, and nothing is made beside the workspace."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / name
    root.mkdir()
    with pytest.raises(WorkspaceError, match="MLflow cannot keep its database"):
        connect(root, root / ".pretune")
    assert list(tmp_path.iterdir()) == [root]


def test_doctor_names_a_conflict_in_the_lock_file_of_packages(tmp_path):
    """With its line, as in every other file; a line that is no requirement is a finding, too."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("<<<<<<< HEAD\ndvc==3\n", encoding="utf-8")
    (finding,) = _versions(tmp_path, _fix=False)
    assert (finding.state, "line 1: a merge conflict" in finding.detail) == ("problem", True)
    lock.write_text("dvc = = 3\n", encoding="utf-8")
    assert [finding.state for finding in _versions(tmp_path, _fix=False)] == ["problem"]


def test_names_that_mlflow_does_not_take_are_changed_and_stay_apart(tracked):
    """Labels of any kind in params, metrics and tags: all are recorded, and no two of them as one."""
    names = [
        "R&D",
        "R%D",
        "C++ (language)",
        ">50K",
        "a/b",
        "a//b",
        "../a",
        "/a",
        "100%",
        "emoji \U0001f600",
        "x" * 300,
        "",
    ]
    names += ["x" * 300 + "y", "two\nlines", "."]
    run = tracked.run("evaluate")
    run.params({f"ingest.labels.{name}": str(number) for number, name in enumerate(names)})
    run.params(dict.fromkeys(names, "1"))
    run.metrics({name: float(number) for number, name in enumerate(names)})
    run.tags(dict.fromkeys(names, "t"))
    run.end("FINISHED")
    tracked.send()
    data = tracked.sent()["evaluate"].data
    assert sorted(data.metrics.values()) == [float(number) for number in range(len(names))]
    assert len(data.params) == 2 * len(names)
    assert data.params["ingest.labels.a/b"] == "4"
    assert sum(value == "t" for value in data.tags.values()) == len(names)
