"""The engine `kubernetes`: the manifest of a stage, and a stage in its pods, which are two processes here."""

from __future__ import annotations

import os

import pytest
from ruamel.yaml import YAML

from pretune.errors import WorkspaceError
from pretune.runtime.engines import kubernetes
from pretune.runtime.engines.job import Task

OPTIONS = {"image": "registry.example.org/pretune:1", "claim": "work"}


@pytest.fixture
def task(tmp_path, params):
    """A function that makes a stage of two processes on each of some machines."""

    def make(nodes=2, **options):
        changes = {"engine": "kubernetes", "processes": 2, "nodes": nodes, "options": OPTIONS | options}
        launch = params.launch.model_copy(update=changes)
        return Task(tmp_path, "label_efficiency", launch, 3, tmp_path / "launch" / "label", tmp_path / "log", print)

    return make


def test_a_stage_is_handed_over_not_trained(task):
    """The message says so, with the file and the next commands; the file is the manifest."""
    with pytest.raises(WorkspaceError, match="label_efficiency has not been trained") as caught:
        kubernetes.hand_over(task(), "0123456789")
    file = task().folder.with_suffix(".yaml")
    assert f"kubectl apply --dry-run=server -f {file}" in caught.value.next_step
    assert YAML(typ="safe").load(file) == kubernetes.manifest(task(), "0123456789")


def test_a_pod_for_each_machine(task):
    """Of the operator's two kinds, all alike; one machine needs no worker. The name has the key of the stage."""
    job = kubernetes.manifest(task(nodes=3), "0123456789")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"] == {"name": "pretune-label-efficiency-01234567"}
    pods = job["spec"]["pytorchReplicaSpecs"]
    assert {kind: pod["replicas"] for kind, pod in pods.items()} == {"Master": 1, "Worker": 2}
    assert pods["Master"]["template"] == pods["Worker"]["template"]
    assert {pod["restartPolicy"] for pod in pods.values()} == {"OnFailure"}
    assert list(kubernetes.manifest(task(nodes=1), "0")["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_a_pod_has_the_workspace_and_no_rights(task, tmp_path):
    """At the place that it has here; cores for all threads, a GPU for each process where it is asked for."""
    options = {"path": "projects/one", "namespace": "team", "gpu": "nvidia.com/gpu"}
    job = kubernetes.manifest(task(**options), "0")
    assert job["metadata"]["namespace"] == "team"
    pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["name"], container["image"]) == ("pytorch", OPTIONS["image"])
    assert container["resources"] == {"requests": {"cpu": 6}, "limits": {"nvidia.com/gpu": 2}}
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == str(tmp_path)
    assert container["volumeMounts"][0]["subPath"] == "projects/one"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "work"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_pod_is_a_machine_that_is_started_by_hand(monkeypatch):
    """With the number and the meeting point that the operator says; torchrun does not see the operator's variables."""
    operators = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "first", "MASTER_PORT": "23456", "PET_NNODES": "2"}
    for name, value in operators.items():
        monkeypatch.setenv(name, value)
    executed = []
    monkeypatch.setattr(os, "execve", lambda *arguments: executed.append(arguments))
    kubernetes.main("pretrain")
    ((_, command, environment),) = executed
    assert command[1:] == ["-m", "tasks", "pretrain"]
    assert (environment["PRETUNE_NODE_RANK"], environment[kubernetes.MEETING]) == ("1", "first:23456")
    assert not operators.keys() & environment.keys()
