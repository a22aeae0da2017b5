"""Starts the parts of a stack, tells how they are, and stops them.

What lies in its folder: `stack.env` (addresses and secrets), `postgres/` (databases), `store/` (buckets, as files),
`logs/` and `run/` (a log and a note of the process for each part), `prefect/` (what Prefect keeps of its user).
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pretune.config.files import read_json, write_atomically
from pretune.errors import LockedError, WorkspaceError
from pretune.process import lock
from pretune.stack import parts, postgres, settings
from pretune.stack.parts import MARK, Part
from pretune.stack.server import GRACE, in_use, last_lines, stop_group, wait

NEEDED = {"nanio": "nanio", "flask_wtf": "Flask-WTF", "psycopg": "psycopg[binary]", "boto3": "boto3"}
INSTALL = "pip install 'pretune[stack]'"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """How a part is. pid: None if it does not run."""

    name: str
    address: str
    pid: int | None
    healthy: bool

    @property
    def health(self) -> str:
        """In words."""
        return "healthy" if self.healthy else "does not answer" if self.pid else "stopped"


class Stack:
    """The stack in a folder. Its worker runs in a workspace."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.folder, self._workspace = folder.resolve(), workspace
        self.environment_file = self.folder / settings.FILE
        self.logs = self.folder / "logs"

    def values(self) -> dict[str, str]:
        """Addresses and secrets. WorkspaceError if the stack was never started."""
        values = settings.read(self.environment_file)
        if values.keys() < settings.DEFAULTS.keys():
            raise WorkspaceError(f"there is no stack in {self.folder}", "pretune stack up")
        return values

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other commands that change the stack."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / "stack.lock", "a command on this stack"):
            yield

    def up(self, tell: Tell, only: str = "") -> None:
        """Start the parts that do not run, and wait until they answer. If one fails, those started here are stopped.

        only: the name of the one part to start. Raises LockedError if a port is in use, WorkspaceError with the last
        lines of its log if a part does not start.
        """
        check_packages()
        values = settings.complete(self.environment_file)
        self.folder.chmod(0o711 if postgres.owner() else 0o700)  # another user runs PostgreSQL in it
        for name in ("logs", "run", "store", "prefect"):
            (self.folder / name).mkdir(exist_ok=True, mode=0o700)
        groups = parts.groups(self.folder, values)
        groups = [[part for part in group if only in {"", part.name}] for group in groups]
        self._check_ports([part for group in groups for part in group])
        started: list[str] = []
        try:
            for group in groups:
                for part in group:
                    if self._process(part.name):
                        tell(f"{part.name:<9} {part.address:<22} runs already")
                began = {part.name: self._start(part, started) for part in group if not self._process(part.name)}
                for part in group:
                    if part.name in began:
                        self._wait(part)
                        tell(
                            f"{part.name:<9} {part.address:<22} ready after {time.monotonic() - began[part.name]:.1f} s"
                        )
        except BaseException:
            for name in started[::-1]:
                self._stop(name)
            raise

    def down(self, tell: Tell) -> None:
        """Stop all parts, the last started first, and whatever they started."""
        for name in parts.NAMES[::-1]:
            tell(f"{name:<9} {'stopped' if self._stop(name) else 'did not run'}")
        left = [process for process in psutil.process_iter() if _mark(process) == str(self.folder)]
        for process in left:  # of a worker's runs, which have groups of their own
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in left:
            if not _ended(process, GRACE):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def status(self) -> list[Status]:
        """How each part is, in the order in which they start."""
        values = self.values()
        return [
            Status(part.name, part.address, process.pid if process else None, bool(process) and part.healthy())
            for group in parts.groups(self.folder, values)
            for part in group
            for process in [self._process(part.name)]
        ]

    def is_running(self) -> bool:
        """Whether any part runs."""
        return any(self._process(name) for name in parts.NAMES)

    def _start(self, part: Part, started: list[str]) -> float:
        """Start a part; return when that was."""
        began = time.monotonic()
        part.before(self.logs)
        with (self.logs / f"{part.name}.log").open("ab") as file:
            process = subprocess.Popen(
                part.command, cwd="/" if part.account else self._workspace, env=part.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, **part.account,
            )  # fmt: skip
        started.append(part.name)
        note = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        write_atomically(self._note(part.name), json.dumps(note))
        return began

    def _wait(self, part: Part) -> None:
        """Wait until a part answers, then do what others need of it."""
        if not wait(part.healthy, lambda: self._process(part.name) is not None):
            log = self.logs / f"{part.name}.log"
            raise WorkspaceError(
                [f"{part.name} did not start; the end of {log}:", *last_lines(log)],
                f"look into {log}, then: pretune stack up",
            )
        part.after(self.logs)

    def _stop(self, name: str) -> bool:
        """Stop a part. Whether it ran."""
        process = self._process(name)
        if process:
            first = signal.SIGINT if name == "postgres" else signal.SIGTERM  # it would wait for its clients
            stop_group(process.pid, lambda seconds: _ended(process, seconds), first)
        self._note(name).unlink(missing_ok=True)
        return process is not None

    def _note(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"

    def _process(self, name: str) -> psutil.Process | None:
        """The process of a part, if it runs: another one may have its number by now."""
        with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            note = read_json(self._note(name))
            process = psutil.Process(note["pid"])
            if process.create_time() == note["created"] and not _ended(process, 0):
                return process
        return None

    def _check_ports(self, wanted: list[Part]) -> None:
        busy = [part for part in wanted if not self._process(part.name) and in_use(part.port, part.host)]
        if busy:
            raise LockedError(
                [f"port {part.port} of {part.name} is in use" for part in busy],
                f"set {', '.join(f'{part.name.upper()}_PORT' for part in busy)} in {self.environment_file}",
            )


def check_packages() -> None:
    """Raise WorkspaceError if a package that the parts need is not installed."""
    if missing := [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]:
        raise WorkspaceError(f"not installed: {', '.join(missing)}", INSTALL)


def _ended(process: psutil.Process, seconds: float) -> bool:
    """Wait at most so long for a process that may be nobody's child; whether it has ended."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
    return True


def _mark(process: psutil.Process) -> str:
    """The stack that a process belongs to, as its environment says."""
    with suppress(psutil.Error, OSError):
        return str(process.environ().get(MARK, ""))
    return ""
