"""Slurm with two machines, both of them this one: munge, the controller, and a daemon for each machine."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
MACHINES = ("one", "two")
CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=usual Nodes=one,two Default=YES PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=one,two PriorityTier=9
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


class Slurm:
    """A cluster in a folder; `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        folder.chmod(0o755)
        (folder / "state").mkdir()
        ports = [_free_port() for _ in range(3)]
        facts = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=ports, **facts), encoding="utf-8")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        names = {"socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._munge = self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
        while not (folder / "munge.sock").exists():
            time.sleep(0.05)
        self._controller = self._start("slurmctld", "-D")
        self._machines = {machine: self._start("slurmd", "-D", "-N", machine) for machine in MACHINES}
        while not self.is_idle():
            time.sleep(0.1)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=os.environ | self.environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def call(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        ).stdout

    def is_idle(self) -> bool:
        """Whether nothing runs on either machine, nor is about to end there."""
        return self.call("sinfo", "--noheader", "--format=%T %D").strip() == "idle 2"

    def lose(self, machine: str) -> None:
        """End all that runs on a machine without a word, as a loss of power does, and start it again."""
        self._machines[machine].kill()
        own = [f"SLURMD_NODENAME={machine}".encode(), str(self.folder).encode()]
        tasks = [pid for pid in _pids() if all(mark in _read(pid, "environ") for mark in own)]
        parents = {int(_read(pid, "stat").rpartition(b")")[2].split()[1]) for pid in tasks}
        steps = [pid for pid in parents if b"slurmstepd" in _read(pid, "cmdline")]
        for pid in [*steps, *tasks]:  # a step would tell that its tasks have ended
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._machines[machine].wait()
        self._machines[machine] = self._start("slurmd", "-D", "-N", machine)

    def jobs(self) -> dict[str, str]:
        """{id: state} of the jobs that have not ended."""
        return dict(line.split() for line in self.call("squeue", "--noheader", "--format=%i %T").splitlines())

    def preempt(self) -> None:
        """Take all machines for a more urgent job, which ends soon."""
        self.call("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")

    def release(self) -> None:
        """Let jobs that were queued again begin now, not in two minutes, but not before their former steps are gone."""
        for job, state in self.jobs().items() if self.is_idle() else ():
            if state == "PENDING":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def close(self) -> None:
        """End everything."""
        for job in self.jobs():
            self.call("scancel", job)
        for process in [*self._machines.values(), self._controller, self._munge]:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> bytes:
    """A file of a process; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
