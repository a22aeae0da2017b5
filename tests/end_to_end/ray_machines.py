"""A Ray cluster: this machine, which has no room for work, and two nodes in network namespaces of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

NODES = ("one", "two")
PORT = 6379
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0",
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000", "RAY_health_check_failure_threshold": "2",
}  # fmt: skip


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    if not importlib.util.find_spec("ray"):  # not imported: other tests set its variables first
        return "Ray is not installed (the extra `cluster`)"
    if os.geteuid() or not shutil.which("ip"):
        return "network namespaces need root, and ip (Debian: apt install iproute2)"
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    ip("netns", "delete", name)
    return ""


class Ray:
    """The cluster; its files lie in `folder`, a short path. environment: what a command needs that is to join it."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 250
        self._folder, self._name, self._network = folder, f"ray{os.getpid()}", f"198.18.{number}"
        self._processes = dict[str, subprocess.Popen[bytes]]()
        here = f"{self._network}.254"
        self.environment = {"PRETUNE_CLUSTER": f"{here}:{PORT}", **SETTINGS}
        ip("link", "add", self._name, "type", "bridge")
        ip("address", "add", f"{here}/24", "dev", self._name)
        ip("link", "set", self._name, "up")
        self._start("head", here, "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
        for name in NODES:
            self.add(name)

    def add(self, name: str) -> None:
        """Start a node in a namespace of its own, with a cable to this machine."""
        space, address = self._space(name), f"{self._network}.{NODES.index(name) + 1}"
        ip("netns", "add", space)
        ip("link", "add", f"{name}{os.getpid()}", "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", f"{name}{os.getpid()}", "master", self._name, "up")
        ip("-netns", space, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            ip("-netns", space, "link", "set", interface, "up")
        inside = ["ip", "netns", "exec", space]
        self._start(name, address, f"--address={self.environment['PRETUNE_CLUSTER']}", "--num-cpus=1", inside=inside)

    def pids(self, name: str) -> list[int]:
        """What runs on a node."""
        return [int(pid) for pid in ip("netns", "pids", self._space(name)).split()]

    def lose(self, name: str) -> None:
        """End a node without a word to the others: its cable is cut first."""
        ip("link", "delete", f"{name}{os.getpid()}")
        for pid in self.pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._processes.pop(name).wait()
        ip("netns", "delete", self._space(name))

    def close(self) -> None:
        """End everything."""
        for name in self._processes.keys() - {"head"}:
            self.lose(name)
        self._processes["head"].terminate()
        self._processes["head"].wait()
        ip("link", "delete", self._name)

    def _space(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _start(self, name: str, address: str, *options: str, inside: list[str] | None = None) -> None:
        """Start a node, and wait until it has joined."""
        own = ["--block", f"--node-ip-address={address}", "--object-store-memory=80000000"]
        log = self._folder / f"{name}.log"
        with log.open("w", encoding="utf-8") as file:
            process = self._processes[name] = subprocess.Popen(
                [*(inside or []), sys.executable, "-m", "ray.scripts.scripts", "start", *own, *options],
                env=os.environ | SETTINGS | {"RAY_TMPDIR": str(self._folder)}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.05)


def ip(*command: str) -> str:
    """What `ip COMMAND` says."""
    return subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout
