"""Backups of a stack: its databases and its buckets, with the secrets that belong to them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pretune.errors import DataError, WorkspaceError
from pretune.stack import postgres, settings
from pretune.stack.lifecycle import Stack, Tell

UNFINISHED = re.compile(r"\.tmp\.[0-9a-f]{32}")  # an object that the store is writing
INTERNAL, SIDECARS = ".nanio", ".nanio-meta"  # folders of the store: parts of uploads, and headers of objects


def backup(stack: Stack, target: Path, tell: Tell) -> None:
    """Write a backup to a new folder, all of it or none, while the stack runs.

    First the databases, then the objects: whatever a record names had been uploaded by then.
    """
    values = stack.values()
    _check_new(target)
    if not postgres.is_ready(values):
        raise WorkspaceError("PostgreSQL does not answer: only a running stack can be backed up", "pretune stack up")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    for name in postgres.DATABASES:
        dump = partial / f"{name}.dump"
        postgres.dump(values, name, dump, stack.logs / "postgres.log")
        tell(f"{name:<12} {dump.stat().st_size:,} bytes")
    tell(f"{'store':<12} {_copy(stack.folder / 'store', partial / 'store'):,} objects")
    shutil.copy2(stack.environment_file, partial / settings.FILE)
    partial.rename(target)


def restore(stack: Stack, source: Path, tell: Tell) -> None:
    """Fill a new stack folder from a backup; the stack is down afterwards. DataError if something is missing in it."""
    dumps = {name: source / f"{name}.dump" for name in postgres.DATABASES}
    if missing := [
        path.name for path in [*dumps.values(), source / "store", source / settings.FILE] if not path.exists()
    ]:
        raise DataError(
            f"{source} is not a backup of a stack: it lacks {', '.join(missing)}", "pretune stack backup FOLDER"
        )
    if (stack.folder / "postgres").exists():
        raise WorkspaceError(
            f"there is a stack in {stack.folder} already", f"pretune stack restore {source} --folder NEW_FOLDER"
        )
    shutil.rmtree(stack.folder / "store", ignore_errors=True)  # of a restore that was stopped
    here = settings.read(stack.environment_file)  # its own ports, with the backup's secrets
    values = settings.read(source / settings.FILE) | {name: here[name] for name in settings.ADDRESSES if name in here}
    settings.write(stack.environment_file, values)
    try:
        stack.up(lambda _: None, only="postgres")
        for name, path in dumps.items():
            postgres.load(values, name, path, stack.logs / "postgres.log")
            tell(f"{name:<12} restored")
    except BaseException:
        stack.down(lambda _: None)
        shutil.rmtree(stack.folder / "postgres", ignore_errors=True)
        raise
    stack.down(lambda _: None)
    tell(f"{'store':<12} {_copy(source / 'store', stack.folder / 'store'):,} objects")


def _copy(source: Path, target: Path) -> int:
    """Copy the buckets; return how many objects they hold."""

    def unfinished(folder: str, names: list[str]) -> list[str]:
        top, sidecars = Path(folder) == source, SIDECARS in Path(folder).parts
        return [
            name
            for name in names
            if (top and name == INTERNAL) or UNFINISHED.fullmatch(name) or (sidecars and name.endswith(".tmp"))
        ]

    shutil.copytree(source, target, ignore=unfinished, dirs_exist_ok=True)
    return sum(path.is_file() and SIDECARS not in path.relative_to(target).parts for path in target.rglob("*"))


def _check_new(target: Path) -> None:
    if target.exists():
        raise WorkspaceError(f"{target} exists already", f"pretune stack backup {target}-2")
