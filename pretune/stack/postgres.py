"""PostgreSQL: its programs, the user that runs it, its databases, and dumps of them.

It listens on TCP only, on this machine, and asks everybody for a password. It refuses to run as root: root starts it as
the user `postgres` that Debian's package makes.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretune.errors import WorkspaceError
from pretune.stack.server import HOST, last_lines
from pretune.stack.settings import new_private

ROLE = "pretune"
DATABASES = ("mlflow", "mlflow_auth", "prefect")
USER = "postgres"  # of the system; used by root only
INSTALL = "apt install postgresql   (or your system's package)"
DEBIAN = Path("/usr/lib/postgresql")
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs: of the newest version of Debian's packages, else on PATH."""
    versions = sorted(DEBIAN.glob("*"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    found = next((str(path / "bin" / name) for path in versions[::-1] if (path / "bin" / name).is_file()), None)
    found = found or shutil.which(name)
    if not found:
        raise WorkspaceError(f"PostgreSQL is not installed: there is no {name}", INSTALL)
    return found


def owner() -> dict[str, Any]:
    """The arguments of Popen for the user that runs PostgreSQL: this one, unless it is root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        raise WorkspaceError(f"PostgreSQL does not run as root, and there is no user {USER}", INSTALL) from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def client(values: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that connects to the server; no password in a command line."""
    return {
        "PGHOST": HOST, "PGPORT": values["POSTGRES_PORT"], "PGUSER": ROLE, "PGPASSWORD": values["POSTGRES_PASSWORD"],
    }  # fmt: skip


def command(data: Path, values: Mapping[str, str]) -> list[str]:
    """The server's command line."""
    settings = {
        "listen_addresses": HOST,
        "port": values["POSTGRES_PORT"],
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    return [program("postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]


def create(data: Path, values: Mapping[str, str], log: Path) -> None:
    """Make the folder of a server without databases, all of it or none, unless it is there."""
    if data.exists():
        return
    account = owner()
    partial, secret = data.with_name("postgres.partial"), data.with_name("postgres.secret")
    shutil.rmtree(partial, ignore_errors=True)
    with new_private(secret) as file:
        file.write(values["POSTGRES_PASSWORD"])
    partial.mkdir(mode=0o700)
    if account:
        for path in (partial, secret):
            os.chown(path, account["user"], account["group"])
    arguments = ["-D", str(partial), "-U", ROLE, "--pwfile", str(secret), "--auth=scram-sha-256", "--encoding=UTF8"]
    try:
        _run(["initdb", *arguments, "--locale=C.UTF-8", "--no-instructions"], {}, log, **account)
    finally:
        secret.unlink()
    partial.rename(data)


def is_ready(values: Mapping[str, str]) -> bool:
    """Whether the server answers."""
    return not subprocess.run(
        [program("pg_isready"), "--quiet", "--dbname=postgres"], env=_environment(client(values)), check=False,
        stdin=subprocess.DEVNULL,
    ).returncode  # fmt: skip


def create_databases(values: Mapping[str, str], log: Path) -> None:
    """Create the databases of MLflow and Prefect that are missing."""
    query = ["psql", "--dbname=postgres", "--no-align", "--tuples-only", "--command=SELECT datname FROM pg_database"]
    known = _run(query, client(values), log).split()
    for name in DATABASES:
        if name not in known:
            _run(["createdb", name], client(values), log)


def dump(values: Mapping[str, str], name: str, target: Path, log: Path) -> None:
    """Write one database to a file, as it is at one moment."""
    _run(["pg_dump", "--format=custom", f"--file={target}", name], client(values), log)


def load(values: Mapping[str, str], name: str, source: Path, log: Path) -> None:
    """Fill an empty database from a dump, all of it or nothing."""
    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", f"--dbname={name}", str(source)]
    _run(["pg_restore", *arguments], client(values), log)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ} | dict(more)


def _run(arguments: list[str], environment: Mapping[str, str], log: Path, **account: Any) -> str:
    """Run a program to its end; what it prints. WorkspaceError with its last lines if it fails."""
    with log.open("ab") as errors:
        done = subprocess.run(
            [program(arguments[0]), *arguments[1:]], env=_environment(environment), cwd="/", check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, **account,
        )  # fmt: skip
    if done.returncode:
        problem = [f"{arguments[0]} ended with {done.returncode}; {log} says:", *last_lines(log)]
        step = (
            "pretune stack up --folder FOLDER   (one that the user postgres can reach)" if account else "pretune doctor"
        )
        raise WorkspaceError(problem, step)
    return str(done.stdout.decode())
