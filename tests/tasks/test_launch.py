from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing

import pytest

from pretune.errors import DataError, DivergedError, TerminatedError, WorkspaceError
from pretune.lineage.graph import Node
from pretune.runtime import launcher, worker

NODE = Node("pretrain", "", deps=[], params=["launch"], outs=["model"], upstream=[], meta={})


@pytest.fixture
def asked(params):
    """A function that asks for processes on machines."""

    def ask(processes=2, nodes=1):
        settings = params.launch.model_copy(update={"processes": processes, "nodes": nodes})
        return params.model_copy(update={"launch": settings})

    return ask


@pytest.fixture
def crew(tmp_path, asked):
    """Two processes that never start; `say` is what one of them says."""
    found = launcher.WorkerGroup(tmp_path, tmp_path, NODE, {}, asked())
    found._folder.mkdir(parents=True)
    found._log.parent.mkdir(parents=True)
    found._log.write_text("what torchrun says\n", encoding="utf-8")

    def say(rank, event, **content):
        with closing(worker.WorkerEvents(found._folder / f"{rank}.jsonl", first=rank == 0)) as messages:
            messages.write(event, **content)

    found.say = say
    return found


def heard(crew):
    """Take in what has been said."""
    return list(crew._news())


def failed(crew, error, code=1, received=()):
    """What is raised when the processes have told of that."""
    heard(crew)
    with pytest.raises(error) as caught:
        crew._result(code, list(received))
    return caught.value


def test_one_process_is_not_launched(asked):
    """Nor is a stage that does not read `launch`; two are, wherever they run."""
    assert not launcher.is_distributed(NODE, asked(1))
    assert launcher.is_distributed(NODE, asked(2))
    assert launcher.is_distributed(NODE, asked(1, 2))
    assert not launcher.is_distributed(Node("prepare", "", [], ["seed"], [], [], {}), asked(2))


@pytest.mark.parametrize("text", ["2", "-1", "first", ""])
def test_a_machine_that_does_not_exist_is_refused(asked, text):
    """The number has to be below launch.nodes."""
    os.environ[launcher.NODE_RANK] = text
    with pytest.raises(WorkspaceError, match=launcher.NODE_RANK):
        launcher.node_rank(asked(1, 2))


def test_machines_are_numbered(asked):
    """The first by default."""
    assert launcher.node_rank(asked(1, 2)) == 0
    os.environ[launcher.NODE_RANK] = "1"
    assert launcher.node_rank(asked(1, 2)) == 1


def test_the_first_process_says_what_was_written(crew):
    """Whichever ends first; half a line is not taken for a message."""
    crew.say(1, "done", written=[], models=[])
    crew.say(0, "done", written=["model"], models=[])
    with (crew._folder / "0.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "li')
    heard(crew)
    assert crew._result(0, [])["written"] == ["model"]


def test_a_mistake_is_raised_as_what_it_is(crew):
    """Both tell it, it is raised once; that the other was cut off by it does not matter."""
    mistake = DataError(["one", "two"], "mend")
    crew.say(0, "crash", time=0.0, text="connection lost\n")
    crew.say(1, "error", **mistake.as_dict())
    error = failed(crew, DataError)
    assert (error.problems, error.next_step, error.exit_code) == (["one", "two"], "mend", 4)


def test_a_mistake_is_told_before_the_stop_that_it_caused(crew):
    """SIGTERM is what torchrun sends to the others."""
    crew.say(0, "error", **TerminatedError("stopped by SIGTERM").as_dict())
    crew.say(1, "error", **DivergedError("not finite").as_dict())
    failed(crew, DivergedError)


def test_a_stop_is_told_with_its_step(crew):
    """SIGTERM to this process: what the first says; Ctrl-C is what it was."""
    crew.say(0, "error", **TerminatedError("stopped by SIGTERM after step 3").as_dict())
    assert failed(crew, TerminatedError, received=[signal.SIGTERM]).problems == ["stopped by SIGTERM after step 3"]
    failed(crew, KeyboardInterrupt, received=[signal.SIGINT])


def test_a_stop_before_training_is_a_stop(crew):
    """Nobody could say anything."""
    assert failed(crew, TerminatedError, code=-9, received=[signal.SIGTERM]).exit_code == 143


def test_the_crash_that_came_first_is_shown(crew, capsys):
    """The others crash because of it; exit code 1, and the rest is in the log."""
    for rank in range(2):
        crew.say(rank, "begin", pid=1)
    crew.say(0, "crash", time=2.0, text="connection lost\n")
    crew.say(1, "crash", time=1.0, text="the cause\n")
    assert failed(crew, SystemExit).code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("the cause\nerror: a process of pretrain failed")
    assert "connection lost" not in shown
    log = crew._log.read_text(encoding="utf-8")
    assert log == "what torchrun says\nthe cause\nconnection lost\n"


def test_of_a_killed_process_torchrun_tells(crew, capsys):
    """It said nothing itself."""
    for rank in range(2):
        crew.say(rank, "begin", pid=1)
    crew.say(0, "crash", time=2.0, text="connection lost\n")
    failed(crew, SystemExit)
    shown = capsys.readouterr().err
    assert shown.startswith("what torchrun says\nerror: process 1 was killed")


class Pretended:
    """A stage function for worker.main."""

    def __init__(self, action):
        self._action = action

    def __call__(self, name):
        return self._action


@pytest.fixture
def told(tmp_path, asked):
    """A function that has a process carry out a stage function; returns its exit code and what it says."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def carry_out(action, rank=0):
        order = {
            "root": str(tmp_path), "entry": {"params": {}, "deps": {}, "outs": []}, "params": asked().model_dump(),
            "node": {"name": "pretrain", "desc": "", "deps": [], "params": ["launch"], "outs": ["model"],
                     "upstream": [], "meta": {}},
        }  # fmt: skip
        (tmp_path / worker.ORDER).write_text(json.dumps(order), encoding="utf-8")
        os.environ |= {worker.WORKER: str(tmp_path), "RANK": str(rank)}
        code = worker.main("pretrain", Pretended(action))
        path = tmp_path / f"{rank}.jsonl"
        return code, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    yield carry_out
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def act(stage):
    """Use all that a stage function uses."""
    stage.run.metrics({"loss": 1.5}, 10)
    stage._progress.update(1, 2, "half")
    print("careful", file=sys.stderr)
    stage.out("model").write_text("x", encoding="utf-8")
    stage.model("model", ["ask"])


def test_the_first_process_tells_everything(told, tmp_path):
    """Metrics, progress, what Python writes to standard error, and what has been written; nothing is published."""
    code, said = told(act)
    assert code == 0
    assert [message["event"] for message in said] == ["begin", "metrics", "progress", "line", "done"]
    assert said[3]["text"] == "careful"
    assert (said[4]["written"], said[4]["models"]) == (["model"], [["model", ["ask"]]])
    assert (tmp_path / ".model.partial").exists()
    assert not (tmp_path / "model").exists()


def test_the_others_tell_how_they_ended(told):
    """No progress, no metrics: they would be told twice."""
    assert [message["event"] for message in told(lambda stage: stage.run.metrics({"loss": 1}), rank=1)[1]] == [
        "begin", "done",
    ]  # fmt: skip


def test_a_part_of_a_stage_removes_nothing(told, tmp_path):
    """What the first process is writing has to stay when another begins."""
    (tmp_path / ".model.partial").write_text("x", encoding="utf-8")
    told(lambda _: None, rank=1)
    assert (tmp_path / ".model.partial").exists()


def test_a_process_tells_its_error(told):
    """A user's mistake with its exit code, anything else as a crash with a traceback."""

    def mistaken(_):
        raise DataError("no file", "mend")

    def broken(_):
        raise ZeroDivisionError

    code, said = told(mistaken)
    assert (code, said[-1]["kind"], said[-1]["problems"]) == (4, "DataError", ["no file"])
    code, said = told(broken, rank=1)
    assert code == 1
    assert "ZeroDivisionError" in said[-1]["text"]
    assert said[-1]["time"] <= time.time()
