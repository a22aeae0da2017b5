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
from pretune.runtime.engines import agent
from pretune.runtime.engines.job import Lease, Task

NODE = Node("pretrain", "", deps=[], params=["launch.processes"], outs=["model"], upstream=[], meta={})


@pytest.fixture
def params_for(params):
    """A function that returns params for a number of processes on each of some machines."""

    def make(processes=2, nodes=1):
        settings = params.launch.model_copy(update={"processes": processes, "nodes": nodes})
        return params.model_copy(update={"launch": settings})

    return make


@pytest.fixture
def group(tmp_path, params_for):
    """Two processes that never start; `write(rank, event, …)` writes a message of one of them."""
    workers = launcher.WorkerGroup(tmp_path, tmp_path, NODE, {}, params_for())
    (workers._folder / "0").mkdir(parents=True)
    workers._log.parent.mkdir(parents=True)
    workers._log.write_text("output of torchrun\n", encoding="utf-8")

    def write(rank, event, **content):
        with closing(worker.WorkerEvents(workers._folder / "0" / f"{rank}.jsonl", first=rank == 0)) as events:
            events.write(event, **content)

    workers.write = write
    return workers


def read_messages(group):
    """Read the messages that were written."""
    return list(group._new_messages())


def raised(group, error, code=1, signals=()):
    """The error that the messages lead to."""
    read_messages(group)
    with pytest.raises(error) as caught:
        group._result(code, list(signals))
    return caught.value


def test_one_process_is_not_launched(params_for):
    """Nor is a stage that does not read `launch`; two are, wherever they run."""
    assert not launcher.is_distributed(NODE, params_for(1))
    assert launcher.is_distributed(NODE, params_for(2))
    assert launcher.is_distributed(NODE, params_for(1, 2))
    assert not launcher.is_distributed(Node("prepare", "", [], ["seed"], [], [], {}), params_for(2))


@pytest.mark.parametrize("text", ["2", "-1", "first", ""])
def test_a_machine_that_does_not_exist_is_refused(params_for, text):
    """The number has to be below launch.nodes."""
    os.environ[launcher.NODE_RANK] = text
    with pytest.raises(WorkspaceError, match=launcher.NODE_RANK):
        launcher.node_rank(params_for(1, 2))


def test_machines_are_numbered(params_for):
    """The first by default."""
    assert launcher.node_rank(params_for(1, 2)) == 0
    os.environ[launcher.NODE_RANK] = "1"
    assert launcher.node_rank(params_for(1, 2)) == 1


def test_the_first_process_reports_what_was_written(group):
    """Whichever ends first; half a line is not taken for a message."""
    group.write(1, "done", written=[], models=[])
    group.write(0, "done", written=["model"], models=[])
    with (group._folder / "0" / "0.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "li')
    read_messages(group)
    assert group._result(0, [])["written"] == ["model"]


def test_another_attempt_replaces_how_the_one_before_ended(group):
    """A job that was queued again: the stop is forgotten, and metrics of repeated steps are told once."""
    group.write(0, "metrics", values={"loss": 2.0}, step=1)
    group.write(0, "error", **TerminatedError("stopped", "next").as_dict())
    told = [message for message in read_messages(group) if not group._known(message)]
    (group._folder / "1").mkdir()
    with closing(worker.WorkerEvents(group._folder / "1" / "0.jsonl", first=True)) as events:
        for step in (1, 2):
            events.metrics({"loss": 2.0 / step}, step)
        events.write("done", written=["model"], models=[])
    group.write(1, "done", written=[], models=[])  # of the attempt before, and late
    with closing(worker.WorkerEvents(group._folder / "1" / "1.jsonl", first=False)) as events:
        events.write("done", written=[], models=[])
    told += [message for message in read_messages(group) if not group._known(message)]
    assert [message["step"] for message in told if message["event"] == "metrics"] == [1, 2]
    assert group._result(0, [])["written"] == ["model"]


@pytest.mark.parametrize(
    ("codes", "trained", "expected"),
    [
        ({0: 0, 1: 0}, True, 0),
        ({0: 1, 1: 1}, True, 1),
        ({0: agent.AGAIN, 1: agent.STOPPED}, False, agent.AGAIN),
        ({0: 1}, True, agent.AGAIN),  # the other machine is lost
        ({0: 1}, False, 1),  # before it trained: it would be lost again
    ],
)
def test_work_goes_on_if_it_was_interrupted_or_lost_a_machine(
    tmp_path, params_for, monkeypatch, *, codes, trained, expected
):
    """By what the agents of two machines have written down."""
    (tmp_path / "3").mkdir()
    order = {"params": params_for(1, 2).model_dump()}
    (tmp_path / worker.ORDER).write_text(json.dumps(order), encoding="utf-8")
    for machine, code in codes.items():
        (tmp_path / "3" / f"{machine}.code").write_text(str(code), encoding="utf-8")
    with closing(worker.WorkerEvents(tmp_path / "3" / "0.jsonl", first=True)) as events:
        events.write("begin", pid=1)
        events.metrics({"system/cpu_utilization_percentage": 1.0}, 9)
        if trained:
            events.metrics({"loss": 1.0}, 1)
    assert agent.reached(tmp_path / "3") == (1 if trained else None)
    monkeypatch.setenv(worker.WORKER, str(tmp_path))
    assert agent.outcome(3) == expected


def test_work_that_nobody_waits_for_is_stopped(tmp_path, params_for, monkeypatch):
    """Once the sign of life has not changed for so long, whatever the clocks say."""
    launch = params_for(1).launch
    task = Task(tmp_path, "pretrain", launch, 1, tmp_path, tmp_path / "log", print)
    own = agent._Agent(task, tmp_path / "0")
    lease = Lease(tmp_path)
    lease.renew()
    assert own._why([]) == 0
    monkeypatch.setattr(agent, "PATIENCE", 0.0)
    assert own._why([]) == agent.STOPPED
    monkeypatch.setattr(agent, "PATIENCE", 60.0)
    assert own._why([signal.SIGTERM]) == agent.AGAIN
    (tmp_path / "1").mkdir()  # another attempt has begun: this machine was cut off
    assert own._why([]) == 1
    lease.stop()
    assert own._why([signal.SIGTERM]) == agent.STOPPED


def test_a_mistake_is_raised_as_what_it_is(group):
    """Both report it, it is raised once; the broken connection of the other does not matter."""
    mistake = DataError(["one", "two"], "fix")
    group.write(0, "crash", time=0.0, text="connection lost\n")
    group.write(1, "error", **mistake.as_dict())
    error = raised(group, DataError)
    assert (error.problems, error.next_step, error.exit_code) == (["one", "two"], "fix", 4)


def test_a_mistake_is_reported_before_the_stop_that_it_caused(group):
    """SIGTERM is what torchrun sends to the others."""
    group.write(0, "error", **TerminatedError("stopped by SIGTERM").as_dict())
    group.write(1, "error", **DivergedError("not finite").as_dict())
    raised(group, DivergedError)


def test_a_stop_is_reported_with_its_step(group):
    """SIGTERM to this process: the error of the first; Ctrl-C stays KeyboardInterrupt."""
    group.write(0, "error", **TerminatedError("stopped by SIGTERM after step 3").as_dict())
    assert raised(group, TerminatedError, signals=[signal.SIGTERM]).problems == ["stopped by SIGTERM after step 3"]
    raised(group, KeyboardInterrupt, signals=[signal.SIGINT])


def test_a_stop_before_training_is_a_stop(group):
    """No process has begun."""
    assert raised(group, TerminatedError, code=-9, signals=[signal.SIGTERM]).exit_code == 143


def test_the_crash_that_came_first_is_shown(group, capsys):
    """The others crash because of it; exit code 1, and the rest is in the log."""
    for rank in range(2):
        group.write(rank, "begin", pid=1)
    group.write(0, "crash", time=2.0, text="connection lost\n")
    group.write(1, "crash", time=1.0, text="the cause\n")
    assert raised(group, SystemExit).code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("the cause\nerror: a process of pretrain failed")
    assert "connection lost" not in shown
    log = group._log.read_text(encoding="utf-8")
    assert log == "output of torchrun\nthe cause\nconnection lost\n"


def test_of_a_killed_process_torchrun_tells(group, capsys):
    """It messages nothing itself."""
    for rank in range(2):
        group.write(rank, "begin", pid=1)
    group.write(0, "crash", time=2.0, text="connection lost\n")
    raised(group, SystemExit)
    shown = capsys.readouterr().err
    assert shown.startswith("output of torchrun\nerror: process 1 was killed")


class FakeStageFunction:
    """A stage function for worker.main."""

    def __init__(self, action):
        self._action = action

    def __call__(self, name):
        return self._action


@pytest.fixture
def run_worker(tmp_path, params_for):
    """A function that runs a stage function as one process does; returns its exit code and messages."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def run(action, rank=0):
        order = {
            "root": str(tmp_path), "entry": {"params": {}, "deps": {}, "outs": []}, "params": params_for().model_dump(),
            "node": {"name": "pretrain", "desc": "", "deps": [], "params": ["launch.processes"], "outs": ["model"],
                     "upstream": [], "meta": {}},
        }  # fmt: skip
        (tmp_path / "0").mkdir(exist_ok=True)
        (tmp_path / worker.ORDER).write_text(json.dumps(order), encoding="utf-8")
        os.environ |= {worker.WORKER: str(tmp_path), "RANK": str(rank)}
        code = worker.main("pretrain", FakeStageFunction(action))
        path = tmp_path / "0" / f"{rank}.jsonl"
        return code, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    yield run
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def act(stage):
    """Use all that a stage function uses."""
    stage.run.metrics({"loss": 1.5}, 10)
    stage._progress.update(1, 2, "half")
    print("careful", file=sys.stderr)
    stage.out("model").write_text("x", encoding="utf-8")
    stage.model("model", ["ask"])


def test_the_first_process_reports_everything(run_worker, tmp_path):
    """Metrics, progress, what Python writes to standard error, and what has been written; nothing is published."""
    code, messages = run_worker(act)
    assert code == 0
    assert [message["event"] for message in messages] == ["begin", "metrics", "progress", "line", "done"]
    assert messages[3]["text"] == "careful"
    assert (messages[4]["written"], messages[4]["models"]) == (["model"], [["model", ["ask"]]])
    assert (tmp_path / ".model.partial").exists()
    assert not (tmp_path / "model").exists()


def test_the_others_report_how_they_ended(run_worker):
    """No progress, no metrics: they would be reported twice."""
    assert [message["event"] for message in run_worker(lambda stage: stage.run.metrics({"loss": 1}), rank=1)[1]] == [
        "begin", "done",
    ]  # fmt: skip


def test_a_part_of_a_stage_removes_nothing(run_worker, tmp_path):
    """What the first process is writing has to stay when another begins."""
    (tmp_path / ".model.partial").write_text("x", encoding="utf-8")
    run_worker(lambda _: None, rank=1)
    assert (tmp_path / ".model.partial").exists()


def test_a_process_reports_its_error(run_worker):
    """A user's mistake with its exit code, anything else as a crash with a traceback."""

    def mistaken(_):
        raise DataError("no file", "fix")

    def broken(_):
        raise ZeroDivisionError

    code, messages = run_worker(mistaken)
    assert (code, messages[-1]["kind"], messages[-1]["problems"]) == (4, "DataError", ["no file"])
    code, messages = run_worker(broken, rank=1)
    assert code == 1
    assert "ZeroDivisionError" in messages[-1]["text"]
    assert messages[-1]["time"] <= time.time()
