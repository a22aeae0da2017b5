"""`pretune stack`: PostgreSQL, an S3 store, MLflow, Prefect and a worker for a team, as plain processes here."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from pretune.stack.lifecycle import Stack

EXAMPLES = (
    "Examples:\n\npretune stack up    pretune stack status    pretune stack down"
    "\n\npretune stack user ada    pretune stack user guest --read-only"
    "\n\npretune stack backup /mnt/backup/monday    pretune stack restore /mnt/backup/monday --folder .pretune/stack-2"
)
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where all of it lies; default: .pretune/stack in the workspace.")
]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    help="Servers for a team on this machine: PostgreSQL, an S3 store, MLflow, Prefect, a worker.",
)  # fmt: skip


@app.command(epilog="Example:  pretune stack up    pretune stack up --folder /srv/pretune")
def up(folder: Folder = None) -> None:
    """Start what does not run, wait until all answers, and say what a colleague has to set."""
    stack = _stack(folder)
    with stack.locked():
        stack.up(_tell)
    from pretune.stack import settings

    print("\nwhat a colleague sets, in the workspace (secrets: share them as such):\n")
    _show(stack, settings.ACCOUNT, "")


@app.command(epilog="Example:  pretune stack down")
def down(folder: Folder = None) -> None:
    """Stop all parts, and the runs of the worker. Databases and objects stay."""
    stack = _stack(folder)
    with stack.locked():
        stack.down(_tell)


@app.command(epilog="Example:  pretune stack status --json")
def status(folder: Folder = None, as_json: Json = False) -> None:
    """Show address, process and health of each part. Exit code 10 if one is not healthy."""
    stack = _stack(folder)
    found = stack.status()
    if as_json:
        print(json.dumps([asdict(part) for part in found]))
    else:
        for part in found:
            print(f"{part.name:<9} {part.address:<22} {f'pid {part.pid}' if part.pid else '-':<12} {part.health}")
        print(f"secrets: {stack.environment_file}   logs: {stack.logs}")
    if not all(part.healthy for part in found):
        raise typer.Exit(10)


@app.command(epilog="Example:  pretune stack user ada    pretune stack user guest --read-only")
def user(
    name: Annotated[str, typer.Argument(help="The account's name in MLflow.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="It may look, and change nothing.")] = False,
    folder: Folder = None,
) -> None:
    """Make an account in MLflow, or give it a new password, and print what its owner has to set."""
    from pretune.stack import accounts, settings

    stack = _stack(folder)
    values, password = stack.values(), settings.secret()
    server = settings.clients(values)["MLFLOW_TRACKING_URI"]
    accounts.ensure(server, values["MLFLOW_ADMIN_PASSWORD"], name, password, member=not read_only)
    _show(stack, name, password, reader=read_only)


@app.command(epilog="Example:  pretune stack backup /mnt/backup/monday")
def backup(
    target: Annotated[Path, typer.Argument(help="A new folder, which only you may read: it holds the secrets too.")],
    folder: Folder = None,
) -> None:
    """Write the databases, the objects and the secrets of a running stack to a new folder."""
    from pretune.stack.backup import backup as write

    stack = _stack(folder)
    with stack.locked():
        write(stack, target.resolve(), _tell)


@app.command(epilog="Example:  pretune stack restore /mnt/backup/monday --folder .pretune/stack-2")
def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `pretune stack backup` wrote.")], folder: Folder = None
) -> None:
    """Make a new stack of a backup. `pretune stack up` then starts it."""
    from pretune.stack.backup import restore as read

    stack = _stack(folder)
    with stack.locked():
        read(stack, source.resolve(), _tell)
    print(f"next: pretune stack up{f' --folder {shlex.quote(str(folder))}' if folder else ''}")


def _stack(folder: Path | None) -> Stack:
    from pretune.lineage.graph import find_root, state_dir
    from pretune.stack.lifecycle import Stack

    root = find_root()
    return Stack(folder or state_dir(root) / "stack", root)


def _tell(line: str) -> None:
    print(line, flush=True)


def _show(stack: Stack, account: str, password: str, *, reader: bool = False) -> None:
    from pretune.stack import settings

    values = stack.values()
    for name, value in settings.clients(values, account, password).items():
        if not (reader and name.startswith("PREFECT_")):
            print(f"export {name}={shlex.quote(value)}")
    for line in [] if reader else settings.remote(values):
        print(line)
