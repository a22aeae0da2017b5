"""The engine that params.yaml names."""

from __future__ import annotations

from collections.abc import Callable

from pretune.runtime.engines import local, ray, slurm
from pretune.runtime.engines.job import Job, Task

ENGINES: dict[str, Callable[[Task], Job]] = {"local": local.LocalJob, "slurm": slurm.SlurmJob, "ray": ray.RayJob}


def check(engine: str) -> None:
    """Raise WorkspaceError where an engine is not there."""
    if engine == "slurm":
        slurm.check()
    if engine == "ray":
        ray.check()


def start(task: Task) -> Job:
    """Start a stage by the engine that its params name. Raises WorkspaceError where that is not there."""
    check(task.launch.engine)
    return ENGINES[task.launch.engine](task)
