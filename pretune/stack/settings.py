"""stack.env: the addresses and secrets of a stack, one `NAME=value` a line.

`python -m pretune.stack.settings FILE` makes those that are missing.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from pretune.errors import WorkspaceError

FILE = "stack.env"
ACCOUNT = "team"  # of MLflow: what a colleague without an account of their own uses, and the worker
LINE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
BUCKETS = ("mlflow", "dvc")
REGION = "us-east-1"


def secret() -> str:
    """A new one, of 160 bits."""
    return secrets.token_hex(20)  # no character that a shell, an address or an option would read otherwise


DEFAULTS: dict[str, Callable[[], str]] = {  # in the order of deploy/stack.env.example, which says what each is
    "STACK_HOST": lambda: "127.0.0.1",
    "POSTGRES_PORT": lambda: "5433",
    "STORE_PORT": lambda: "9000",
    "MLFLOW_PORT": lambda: "5000",
    "PREFECT_PORT": lambda: "4200",
    "WORKER_PORT": lambda: "8080",
    "POSTGRES_PASSWORD": secret,
    "STORE_ACCESS_KEY": lambda: secrets.token_hex(10),
    "STORE_SECRET_KEY": secret,
    "MLFLOW_ADMIN_PASSWORD": secret,
    "MLFLOW_SECRET_KEY": secret,
    "MLFLOW_TEAM_PASSWORD": secret,
    "PREFECT_AUTH_STRING": lambda: f"team:{secret()}",
}
PORTS = [name for name in DEFAULTS if name.endswith("_PORT")]
ADDRESSES = ["STACK_HOST", *PORTS]


def read(path: Path) -> dict[str, str]:
    """The values of a file; {} if there is none. WorkspaceError with every line that cannot be used."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    values, problems = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match or match[1] not in DEFAULTS:
            problems.append(f"{path}, line {number}: not NAME=value with one of {', '.join(DEFAULTS)}")
        elif match[1] in PORTS and not (match[2].isdigit() and 0 < int(match[2]) < 2**16):
            problems.append(f"{path}, line {number}: {match[1]} is a number from 1 to 65535")
        else:
            values[match[1]] = match[2]
    ports = [values.get(name) or DEFAULTS[name]() for name in PORTS]
    if len(set(ports)) < len(ports):
        problems.append(f"{path}: two parts have the same port")
    if problems:
        raise WorkspaceError(problems, f"edit {path}")
    return values


def complete(path: Path) -> dict[str, str]:
    """The values of a file, to which what was missing or empty is added. Only the owner may read it."""
    known = {name: value for name, value in read(path).items() if value}
    values = {name: known.get(name) or make() for name, make in DEFAULTS.items()}
    if values != known:
        write(path, values)
    path.chmod(0o600)
    return values


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write a file that only its owner may read, all of it or none."""
    partial = path.with_name(f"{path.name}.partial")
    with new_private(partial) as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    partial.replace(path)


def new_private(path: Path) -> TextIO:
    """A new file, in place of an old one, that nobody but its owner may read from the moment it is there."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")


def store_client(values: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that uses the store, and no other one that this machine knows of."""
    return {
        "AWS_ENDPOINT_URL": f"http://{values['STACK_HOST']}:{values['STORE_PORT']}",
        "AWS_ACCESS_KEY_ID": values["STORE_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": values["STORE_SECRET_KEY"],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def clients(values: Mapping[str, str], account: str = ACCOUNT, password: str = "") -> dict[str, str]:
    """The variables with which Pretune uses the servers of the stack."""
    host = values["STACK_HOST"]
    return {
        "MLFLOW_TRACKING_URI": f"http://{host}:{values['MLFLOW_PORT']}",
        "MLFLOW_TRACKING_USERNAME": account,
        "MLFLOW_TRACKING_PASSWORD": password or values["MLFLOW_TEAM_PASSWORD"],
        "PREFECT_API_URL": f"http://{host}:{values['PREFECT_PORT']}/api",
        "PREFECT_API_AUTH_STRING": values["PREFECT_AUTH_STRING"],
    }


def remote(values: Mapping[str, str]) -> list[str]:
    """The commands that make the store a DVC remote; the keys go to a file that git ignores."""
    return [
        f"dvc remote add --force --default team s3://{BUCKETS[1]}",
        f"dvc remote modify team endpointurl http://{values['STACK_HOST']}:{values['STORE_PORT']}",
        f"dvc remote modify --local team access_key_id {values['STORE_ACCESS_KEY']}",
        f"dvc remote modify --local team secret_access_key {values['STORE_SECRET_KEY']}",
    ]


if __name__ == "__main__":
    complete(Path(sys.argv[1]))
