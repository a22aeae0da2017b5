"""The engine `slurm`: the stage becomes a job of Slurm, which this process follows and, stopped, cancels.

A preempted job, one that has reached its limit of time, and one that has lost a machine are queued again by Slurm, and
go on from their checkpoint. `python -m pretune.runtime.engines.slurm` is the agent that srun starts on each machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress

from pretune.errors import StageFailedError, WorkspaceError
from pretune.runtime.engines import agent
from pretune.runtime.engines.job import Lease, Task
from pretune.runtime.worker import WORKER

PYTHON = "PRETUNE_PYTHON"
ASK_EVERY = 2.0  # seconds
GRACE = 60  # seconds before the limit of time, in which a checkpoint is written
WAIT = 30  # seconds from the end of the first agent, after which a machine that does not answer is given up
RUNS = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING"}
SCRIPT = f"""#!/bin/sh
trap : TERM  # for the agents, which save; the shell goes on
srun --overlap --wait={WAIT} "${PYTHON}" -m pretune.runtime.engines.slurm
"${PYTHON}" -m pretune.runtime.engines.slurm outcome
code=$?
[ $code -ne {agent.AGAIN} ] || scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


def check() -> None:
    """Raise WorkspaceError where no jobs are submitted."""
    if missing := [name for name in ("sbatch", "scontrol", "scancel") if not shutil.which(name)]:
        raise WorkspaceError(
            f"launch.engine is slurm, and {', '.join(missing)} is not on this machine's PATH",
            "run this on a machine from which jobs are submitted, or write launch.engine: local",
        )


class SlurmJob:
    """A job of Slurm, by its commands."""

    def __init__(self, task: Task) -> None:
        self._task, self._lease = task, Lease(task.folder)
        self._lease.renew()
        self._asked, self._shown = -ASK_EVERY, ""
        self.id = self._submit()

    def _submit(self) -> str:
        task, launch = self._task, self._task.launch
        own = {
            "job-name": f"pretune-{task.name}", "nodes": launch.nodes, "ntasks-per-node": 1, "chdir": task.root,
            "cpus-per-task": launch.processes * task.threads, "output": task.log, "open-mode": "append",
            "signal": f"TERM@{GRACE}",
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in (own | launch.options).items()]
        environment = os.environ | {WORKER: str(task.folder), PYTHON: sys.executable}
        done = _call("sbatch", "--parsable", "--requeue", *options, text=SCRIPT, environment=environment)
        if done.returncode:
            raise WorkspaceError(
                f"Slurm refuses the job: {_first(done.stderr)}",
                "edit launch.options in params.yaml: they are options of sbatch, as {partition: gpu, time: '4:00:00'}",
            )
        return done.stdout.strip().partition(";")[0]

    def wait(self, seconds: float) -> int | None:
        """As Job says. Asks Slurm every ASK_EVERY only."""
        time.sleep(seconds)
        self._lease.renew()
        if time.monotonic() - self._asked < ASK_EVERY:
            return None
        self._asked = time.monotonic()
        facts = self._facts()
        state = facts.get("JobState", "RUNNING")  # the controller may not answer for a while
        self._show(state, facts)
        if state in RUNS:
            return None
        if state in {"COMPLETED", "FAILED"}:
            return int(facts["ExitCode"].partition(":")[0]) or int(state == "FAILED")
        if self._lease.stopped:
            return agent.STOPPED
        raise StageFailedError(
            f"Slurm's job {self.id} of {self._task.name} ended as {state} ({facts.get('Reason', '')})",
            f"read {self._task.log}, then: pretune run   (continues from the last checkpoint)",
        )

    def stop(self, pids: Collection[int]) -> None:  # noqa: ARG002 - they are on other machines
        """Have the agents stop; a job that waits is cancelled."""
        self._lease.stop()
        if self._facts().get("JobState") != "RUNNING":
            self.kill()

    def kill(self) -> None:
        """Cancel the job, if it has not ended."""
        if self._facts().get("JobState") in RUNS:
            self._lease.stop()
            _call("scancel", self.id)

    def _facts(self) -> dict[str, str]:
        """What Slurm says of the job; {} where it does not answer."""
        done = _call("scontrol", "show", "job", "--oneliner", self.id)
        return dict(re.findall(r"(\w+)=(\S*)", done.stdout)) if not done.returncode else {}

    def _show(self, state: str, facts: dict[str, str]) -> None:
        places = facts.get("NodeList", "")
        again = ", again, from the last checkpoint" if facts.get("Restarts", "0") != "0" else ""
        text = {
            "PENDING": f"Slurm's job {self.id} of {self._task.name} waits ({facts.get('Reason')})",
            "RUNNING": f"Slurm's job {self.id} of {self._task.name} runs on {places}{again}",
        }.get(state, self._shown)
        if text != self._shown:
            self._shown = text
            self._task.tell(text)


def _call(
    *command: str, text: str | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)


def _first(text: str) -> str:
    """The first line of what a command said, without its name."""
    return next(iter(text.strip().splitlines()), "it does not say why").removeprefix("sbatch: error: ")


def _address() -> str:
    """How Slurm reaches this machine."""
    with suppress(OSError):
        found = re.search(r"NodeAddr=(\S+)", _call("scontrol", "show", "node", os.environ["SLURMD_NODENAME"]).stdout)
        if found:
            return found[1]
    return os.environ["SLURMD_NODENAME"]


def main() -> int:
    """The agent of the machine that srun started this on; with `outcome`, what became of all of them."""
    attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if sys.argv[1:] == ["outcome"]:
        return agent.outcome(attempt)
    agent.run(int(os.environ["SLURM_NODEID"]), attempt, _address())
    return 0


if __name__ == "__main__":
    sys.exit(main())
