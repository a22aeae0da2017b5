"""The stack of `pretune stack up`, once for all tests and workers; the last that uses it takes it down."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PORTS = ("POSTGRES", "STORE", "MLFLOW", "PREFECT", "WORKER")


def missing() -> str:
    """Why there can be no stack here; "" if there can."""
    from pretune.errors import PretuneError
    from pretune.stack import lifecycle, postgres

    if importlib.util.find_spec("dvc_s3") is None:
        return "dvc-s3 is not installed"
    try:
        lifecycle.check_packages()
        postgres.program("initdb")
        postgres.owner()
    except PretuneError as error:
        return f"{error}: {error.next_step}"
    return ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


@dataclass
class TeamStack:
    """A stack in a folder that every user of the machine can reach: root has another one run PostgreSQL."""

    folder: Path

    def pretune(self, *arguments: str, code: int = 0) -> str:
        """`pretune stack …` for this folder; what it printed (both streams)."""
        command = [sys.executable, "-m", "cli.app", "stack", *arguments, "--folder", str(self.folder)]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == code, f"exit code {done.returncode}, not {code}:\n{done.stdout}"
        return done.stdout

    def up(self, code: int = 0) -> str:
        """Start it, with ports that were free the first time; what it printed."""
        if not (self.folder / "stack.env").exists():
            self.choose_ports()
        return self.pretune("up", code=code)

    def choose_ports(self) -> None:
        """Have it use ports that nobody listens on."""
        lines = [f"{name}_PORT={port}\n" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)]
        (self.folder / "stack.env").write_text("".join(lines), encoding="utf-8")

    def account(self, printed: str) -> tuple[dict[str, str], list[list[str]]]:
        """What `up` or `user` printed: the variables to set, and the dvc commands to run."""
        lines = printed.splitlines()
        variables = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
        commands = [line.split()[1:] for line in lines if line.startswith("dvc ")]
        return dict(line.split("=", 1) for line in variables), commands


def folder_for(name: str) -> Path:
    """A folder right below the temporary one: pytest's own are closed to other users."""
    folder = Path(tempfile.gettempdir()) / f"pretune-stack-{name}"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    return folder


@contextmanager
def running(base: Path) -> Iterator[TeamStack]:
    """A stack of the process whose temporary folder is `base`: a test may stop its parts, or change an account."""
    stack = TeamStack(folder_for(hashlib.sha256(str(base).encode()).hexdigest()[:12]))
    stack.up()
    try:
        yield stack
    finally:
        stack.pretune("down")
        shutil.rmtree(stack.folder)
