"""The engine that params.yaml names."""

from __future__ import annotations

from pretune.runtime.engines.job import Job, Task


def start(task: Task) -> Job:
    """Start a stage by the engine that its params name. Raises WorkspaceError where that is not there."""
    if task.launch.engine == "slurm":
        from pretune.runtime.engines.slurm import SlurmJob

        return SlurmJob(task)
    from pretune.runtime.engines.local import LocalJob

    return LocalJob(task)
