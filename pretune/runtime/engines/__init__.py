"""What runs the processes of a stage: torchrun on this machine, Slurm or Ray.

An engine starts an agent on each machine, which starts torchrun there. They share a folder: the order of the stage, the
messages of each attempt, `stop` when they have to end, and `alive`, which is touched while somebody waits for them.
"""

from __future__ import annotations

from pretune.runtime.engines.job import Job, Task


def start(task: Task) -> Job:
    """Start a stage by the engine that its params name. Raises WorkspaceError where that is not there."""
    if task.launch.engine == "slurm":
        from pretune.runtime.engines.slurm import SlurmJob

        return SlurmJob(task)
    from pretune.runtime.engines.local import LocalJob

    return LocalJob(task)
