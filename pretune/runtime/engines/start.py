"""The engine that params.yaml names."""

from __future__ import annotations

from collections.abc import Callable

from pretune.runtime.engines import kubernetes, local, ray, slurm
from pretune.runtime.engines.job import Job, Task

ENGINES: dict[str, Callable[[Task], Job]] = {
    "local": local.LocalJob, "slurm": slurm.SlurmJob, "ray": ray.RayJob, "kubernetes": kubernetes.start,
}  # fmt: skip


def check(engine: str) -> None:
    """Raise WorkspaceError where an engine is not there."""
    if engine == "slurm":
        slurm.check()
    if engine == "ray":
        ray.check()


def check_stage(task: Task, key: str) -> None:
    """Raise WorkspaceError where the stage with this key cannot be started, or is not started from here."""
    check(task.launch.engine)
    if task.launch.engine == "kubernetes":
        kubernetes.hand_over(task, key)


def start(task: Task) -> Job:
    """Start a stage by the engine that its params name. Raises WorkspaceError."""
    return ENGINES[task.launch.engine](task)
