"""The engine `ray`, without Ray: what it does with agents that end and nodes that are lost."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import pytest

from pretune.cluster import connection
from pretune.errors import StageFailedError, WorkspaceError
from pretune.runtime.engines import agent, ray, start
from pretune.runtime.engines.job import Task
from pretune.runtime.worker import WorkerEvents


class LostError(Exception):
    """Ray's error when a node is gone."""


class FailedError(LostError):
    """Ray's error when the work on a node failed."""

    cause = FileNotFoundError("no such folder")


class FakeRay:
    """A cluster with room on `room` nodes, whose agents are answers: exit codes, or errors."""

    exceptions = SimpleNamespace(RayError=LostError, RayTaskError=FailedError)
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda _: None)

    def __init__(self, room=2):
        self.room, self.removed, self.lost, self.waited = room, 0, set(), []
        group = SimpleNamespace(wait=lambda _: True)
        self.util = SimpleNamespace(placement_group=lambda *_, **__: group, remove_placement_group=self.remove)

    def nodes(self):
        place = {"NodeManagerHostname": "host", "NodeManagerAddress": "10.0.0.2"}
        return [
            {"NodeID": f"node {number}", "Alive": number not in self.lost, "Resources": {"CPU": 1.0}} | place
            for number in range(self.room)
        ]

    def remove(self, _group):
        self.removed += 1

    def wait(self, agents, num_returns, timeout):
        self.waited = agents
        return [each for each in agents if each is not None], [each for each in agents if each is None]

    def get(self, answer):
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def job(tmp_path, params, monkeypatch):
    """A job on two nodes; `job.attempt(answers, codes, step)`: how its agents end, and how far training has come."""
    monkeypatch.setattr(connection, "connect", lambda: cluster)
    monkeypatch.setattr(ray, "WAIT", 0.0)
    cluster, told = FakeRay(), []
    launch = params.launch.model_copy(update={"engine": "ray", "nodes": 2})
    job = ray.RayJob(Task(tmp_path, "pretrain", launch, 1, tmp_path, tmp_path / "log", told.append))
    job.told, job.cluster = told, cluster

    def attempt(answers, codes, step=None):
        folder = tmp_path / str(job._attempt)
        for machine, code in codes.items():
            (folder / f"{machine}.code").write_text(str(code), encoding="utf-8")
        if step is not None:
            with closing(WorkerEvents(folder / "0.jsonl", first=True)) as events:
                events.metrics({"loss": 1.0}, step)
        job._agents = answers
        return job.wait(0.0)

    job.attempt = attempt
    return job


def test_the_agents_codes_are_the_end(job):
    """The worst of them; the places are given back."""
    assert job.attempt([0, 0], {0: 0, 1: 1}) == 1
    assert job.cluster.removed == 1


def test_a_lost_machine_begins_another_attempt(job):
    """By Ray's error, a killed agent, or one that never answers; also work that was interrupted."""
    for lost in (LostError("gone"), -9, None):
        assert job.attempt([0, lost], {0: 1}, step=job._attempt) is None
    assert job.attempt([0, 0], {0: agent.AGAIN, 1: agent.AGAIN}, step=9) is None
    assert job._attempt == job.cluster.removed == 4
    assert [line.rpartition(": ")[2] for line in job.told] == [
        "gone", "its agent was killed by signal 9", "its agent does not answer", "it was interrupted",
    ]  # fmt: skip


def test_a_node_that_ray_has_lost_is_not_waited_for(job):
    """Ray would wait for what ran there until its connection breaks; that of work that has ended is none."""
    job._places, job.cluster.lost = ["node 0", "node 1"], {1}
    assert job.attempt([0, None], {}) is None
    assert job.told == ["the cluster lost a machine of pretrain: host (10.0.0.2) is gone"]
    assert job.cluster.waited == [0]
    job._places = ["node 0", "node 1"]
    assert job.attempt([0, 0], {0: 0, 1: 0}) == 0


def test_a_job_that_is_lost_where_it_was_lost_before_is_given_up(job):
    """As for want of memory: three attempts that get no further. Any that does counts anew."""
    for step in (4, 4, 5, 5):
        assert job.attempt([LostError("gone"), 0], {}, step) is None
    with pytest.raises(StageFailedError, match="3 times, and got no further: gone"):
        job.attempt([LostError("gone"), 0], {}, step=3)


@pytest.mark.parametrize(("answer", "expected"), [(FailedError("x"), "no such folder"), (1, "its agent failed")])
def test_an_agent_that_cannot_work_is_an_error_at_once(job, answer, expected):
    """Another attempt would fail as well."""
    with pytest.raises(StageFailedError, match=expected):
        job.attempt([0, answer], {0: 0})


def test_a_stop_ends_what_waits_for_places(job):
    """143, and the places are given back."""
    job.stop([])
    assert job.attempt([], {}) == agent.STOPPED


def test_too_few_nodes_and_no_cluster_are_refused(job, monkeypatch):
    """With what is needed, and the next command."""
    job.cluster.room = 1
    with pytest.raises(WorkspaceError, match=r"launch\.nodes is 2, and the cluster has 1 nodes with 1 CPU"):
        ray.RayJob(job._task)
    monkeypatch.delenv(connection.CLUSTER, raising=False)
    with pytest.raises(WorkspaceError, match="names no cluster") as caught:
        start.check("ray")
    assert "PRETUNE_CLUSTER=auto" in caught.value.next_step
