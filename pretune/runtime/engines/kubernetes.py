"""The engine `kubernetes`: a stage becomes the manifest of a PyTorchJob of Kubeflow's training operator.

Nothing is sent to a cluster from here. In a pod, `python -m pretune.runtime.engines.kubernetes STAGE` runs the stage as
one of several machines that are started by hand: the first records and publishes in the volume that all of them mount.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pretune.errors import WorkspaceError
from pretune.runtime.engines.job import Task
from pretune.runtime.engines.local import LocalJob

MEETING = "PRETUNE_MEETING"  # set in a pod: HOST:PORT of the first one
OPERATORS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that the operator sets in each pod
PORT = 23456  # the operator's own choice
RESTARTS = 10  # of pods; training goes on from its checkpoint
GRACE = 120  # seconds to save a checkpoint


def hand_over(task: Task, key: str) -> None:
    """Outside of a pod: write the manifest of a stage with this key, and raise WorkspaceError with what comes next."""
    if MEETING in os.environ:
        return
    file = task.folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        YAML().dump(manifest(task, key), stream)
    raise WorkspaceError(
        f"launch.engine is kubernetes: {task.name} has not been trained; its PyTorchJob is in {file}",
        f"kubectl apply --dry-run=server -f {file}   (then without --dry-run; once the job has succeeded: pretune run)",
    )


def start(task: Task) -> LocalJob:
    """In a pod: start the processes of this machine."""
    return LocalJob(replace(task, launch=task.launch.model_copy(update={"rendezvous": os.environ[MEETING]})))


def manifest(task: Task, key: str) -> dict[str, Any]:
    """The PyTorchJob: a pod for each machine. Its name tells stages with other data, params or code apart."""
    launch = task.launch
    names = {"name": f"pretune-{task.name.replace('_', '-')}-{key[:8]}"}
    if space := launch.options.get("namespace"):
        names["namespace"] = str(space)
    pods = {"Master": 1, "Worker": launch.nodes - 1}
    return {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": names,
        "spec": {
            "runPolicy": {"backoffLimit": RESTARTS, "cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                kind: {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": _pod(task)}}
                for kind, count in pods.items() if count
            },
        },
    }  # fmt: skip


def _pod(task: Task) -> dict[str, Any]:
    """What a pod runs: no rights of root, no token of the cluster, the workspace at the place that it has here."""
    launch, options = task.launch, task.launch.options
    mount = {"name": "workspace", "mountPath": str(task.root)}
    if path := options.get("path"):
        mount["subPath"] = str(path)
    resources: dict[str, Any] = {"requests": {"cpu": launch.processes * task.threads}}
    if gpu := options.get("gpu"):
        resources["limits"] = {str(gpu): launch.processes}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "pytorch",  # the operator looks for this one
            "image": options["image"],
            "command": ["python", "-m", "pretune.runtime.engines.kubernetes", task.name],
            "workingDir": str(task.root),
            "ports": [{"name": "pytorchjob-port", "containerPort": PORT}],
            "resources": resources,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [mount, {"name": "memory", "mountPath": "/dev/shm"}],  # noqa: S108 - processes share it
        }],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": options["claim"]}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }  # fmt: skip


def main(name: str) -> None:
    """Run a stage in a pod, by the variables of the operator; torchrun gets its own."""
    own = {"PRETUNE_NODE_RANK": os.environ["RANK"], MEETING: ":".join(os.environ[each] for each in OPERATORS[2:])}
    kept = {each: value for each, value in os.environ.items() if each not in OPERATORS and not each.startswith("PET_")}
    os.execve(sys.executable, [sys.executable, "-m", "tasks", name], kept | own)  # noqa: S606


if __name__ == "__main__":
    main(Path(sys.argv[1]).name)
