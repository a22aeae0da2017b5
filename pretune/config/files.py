"""YAML and CSV files, nested values by dotted name, and files that are replaced as a whole."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pretune.errors import ParamsError

BROKEN = (YAMLError, ValueError, LookupError, RecursionError)  # the date 2001-99-99, `!!bool maybe`, 1,000 brackets
VALUES = 100_000  # in one file of YAML: a few lines of aliases can stand for any number
PARTIAL = re.compile(r"\.(\d+)\.partial$")  # the end of a name by partial_of
CONFLICT = "<<<<<<< "  # git's mark of where one begins


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, where `1e-5` is a number, as it is for DVC. ParamsError where it is none."""
    try:
        data = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path.name} is missing in {path.parent}",
            "git checkout " + path.name + "   (or run in the folder that holds dvc.yaml)",
        ) from None
    except BROKEN as error:
        check_conflicts(path)
        position = ""
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            position = f", line {mark.line + 1}, column {mark.column + 1}"
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ParamsError(f"{path.name}{position}: not valid YAML: {reason}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path.name} must hold `section: {{key: value}}`, not {type(data).__name__}")
    check_size(data, path.name)
    return data


def check_size(data: Any, name: str) -> None:
    """Raise ParamsError for YAML whose anchors and aliases stand for more than VALUES values, or for themselves."""
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = float("inf")  # while it is being counted: a value within itself
            parts = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, parts))
        return sizes[id(value)]

    if size(data) > VALUES:
        raise ParamsError(
            f"{name} stands for more than {VALUES:,} values, by anchors (`&`) and aliases (`*`)", f"edit {name}"
        )


def check_conflicts(path: Path) -> None:
    """Raise ParamsError, with the lines, if git left the markers of a merge conflict in a file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    places = [number for number, line in enumerate(lines, start=1) if line.startswith(CONFLICT)]
    if places:
        step = f"edit {path.name}, then: git add {path.name}"
        if path.name == "dvc.lock":  # results: a run brings them up to date
            step = "git checkout --ours dvc.lock   (or --theirs), then: pretune run"
        raise ParamsError(
            [f"{path.name}, line {number}: a merge conflict that is not resolved" for number in places], step
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that we wrote."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by another content, text as UTF-8: readers see the old one or the new one, never a part.

    The content goes to a temporary file in the same folder first, and to the disk before that is renamed. Processes
    that write the same path at the same time do not disturb each other.
    """
    partial = partial_of(path)
    try:
        with partial.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Where this process writes what is to become `path`; it locks the file as long as it does."""
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def remove_leftovers(*folders: Path) -> None:
    """Remove the temporary files in these folders whose writers were killed.

    Writers are recognised by their process, and by their lock if they are on another machine.
    """
    for partial in [path for folder in folders if folder.is_dir() for path in folder.glob("*.partial")]:
        pid = PARTIAL.search(partial.name)
        if pid is None or Path(f"/proc/{pid[1]}").exists():
            continue
        with contextlib.suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def permit(folder: Path) -> None:
    """Let those read the files in a folder who may read the folder: safetensors writes them for their owner alone."""
    allowed = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and (mode := path.stat().st_mode) & allowed != allowed:
            path.chmod(mode | allowed)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} becomes {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, below a header; an empty text for no rows."""
    if not table:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
