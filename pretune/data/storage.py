"""Files that lie in object storage: the workspace has a pointer to each, this machine copies while there is room.

The pointer to FILE is `FILE.remote`: JSON with the address of the storage, the MD5 and the size of the content, and
facts about it. The object's name is the MD5, so the same content lies there once, whoever writes it, and nothing is
overwritten. A copy is checked against the MD5 when it is fetched, and the least recently used ones make room.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pretune.data import remote
from pretune.errors import DataError, WorkspaceError

ENDING = ".remote"
FOLDER = "PRETUNE_COPIES"  # environment variable: the folder of the copies
SIZE = "PRETUNE_COPIES_GB"  # environment variable: the most that they take
GIGABYTES = 20.0
SETTING = "ingest.storage"
LOST = "pretune run --force   (writes it again; or restore the object)"

Opened = TypeVar("Opened")


def store(path: Path, address: str, **facts: int) -> None:
    """Move a file to the storage at `address` and leave a pointer with these facts. Raises DataError on no answer."""
    size = path.stat().st_size
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    place = f"{address.rstrip('/')}/{md5}"
    with remote.as_data_error(SETTING, place, "create the bucket, then: pretune run"):
        system, name = remote.file_system(place)
        if not system.exists(name) or system.info(name)["size"] != size:
            system.makedirs(name.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), name)
    content = {"address": address, "md5": md5, "bytes": size} | facts
    pointer = path.with_name(path.name + ENDING)
    partial = pointer.with_suffix(".partial")
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, pointer)
    path.unlink()


def remove(address: str) -> None:
    """Remove all that lies at an address, if anything does."""
    with remote.as_data_error(SETTING, address, ""):
        system, name = remote.file_system(address)
        if system.exists(name):
            system.rm(name, recursive=True)


def paths(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder with such names, sorted; those in storage by the name that they would have here."""
    stored = (path.with_name(path.name.removesuffix(ENDING)) for path in folder.glob(pattern + ENDING))
    return sorted({*folder.glob(pattern), *stored})


def facts(path: Path) -> dict[str, Any]:
    """What the pointer to a file says; {} for a file that lies here."""
    pointer = path.with_name(path.name + ENDING)
    if path.exists() or not pointer.exists():
        return {}
    content: dict[str, Any] = json.loads(pointer.read_text(encoding="utf-8"))
    return content


def read(path: Path, function: Callable[[Path], Opened]) -> Opened:
    """What `function` returns for the path of the file, or of a copy of it, which may be gone right afterwards."""
    pointer = facts(path)
    if not pointer:
        return function(path)
    while True:
        copy = _fetch(**{name: pointer[name] for name in ("address", "md5", "bytes")})
        try:
            return function(copy)
        except FileNotFoundError:  # another process has made room
            if copy.exists():
                raise


def _fetch(address: str, md5: str, bytes: int) -> Path:  # noqa: A002 - as the pointer calls it
    """The copy of an object. One process of this machine fetches at a time, so none removes what another is writing."""
    copy = _folder() / md5
    with copy.with_name(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            _make_room(copy.parent, bytes)
            _download(f"{address.rstrip('/')}/{md5}", copy, md5)
        now = time.time_ns()  # finer than the clock of `os.utime` without times
        os.utime(copy, ns=(now, now))
    return copy


def _download(place: str, copy: Path, md5: str) -> None:
    partial = copy.with_suffix(".partial")
    with remote.as_data_error(SETTING, place, LOST):
        system, name = remote.file_system(place)
        system.get_file(name, str(partial))
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        partial.unlink()
        raise DataError(f"{SETTING}: {place} has other content than was written (MD5 {found})", LOST)
    os.replace(partial, copy)


def _folder() -> Path:
    """The folder of the copies, which all workspaces of a user share."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get(FOLDER) or cache / "pretune" / "copies")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _room() -> float:
    """The bytes that copies may take."""
    text = os.environ.get(SIZE) or str(GIGABYTES)
    try:
        if float(text) > 0:
            return float(text) * 1e9
    except ValueError:
        pass
    raise WorkspaceError(f"{SIZE} is {text!r}: it must be a number of gigabytes above 0", f"export {SIZE}=20")


def _make_room(folder: Path, size: int) -> None:
    """Remove the least recently used copies until there is room for another one of `size` bytes."""
    room = _room() - size
    if room < 0:
        raise WorkspaceError(f"{SIZE}: no room for a file of {size / 1e9:.2g} GB", f"export {SIZE}={GIGABYTES:g}")
    found = []
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:  # another process makes room too
            continue
        if path.name != ".lock":
            found.append((status.st_mtime_ns, status.st_size, path))
    used = sum(taken for _, taken, _ in found)
    for _, taken, path in sorted(found):
        if used <= room:
            return
        path.unlink(missing_ok=True)
        used -= taken
