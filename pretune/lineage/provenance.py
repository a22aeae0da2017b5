"""Which code, on which machine, with which libraries: what a run's record says besides its data."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PATCH_FILE = 100_000
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "mlflow", "dvc", "prefect")


def tags(root: Path) -> dict[str, str]:
    """Commit, hardware and library versions, as tags."""
    found = {
        "git.commit": commit(root),
        "git.dirty": str(bool(changes(root))).lower(),
        "host.platform": platform.platform(),
        "host.processor": _processor(),
        "host.cores": str(os.cpu_count()),
        "version.python": platform.python_version(),
    }
    for library in LIBRARIES:
        found[f"version.{library}"] = metadata.version(library)
    return found


def commit(root: Path) -> str:
    """The commit that is checked out, or `none`."""
    return _git(root, "rev-parse", "--verify", "HEAD").strip() or "none"


def changes(root: Path) -> str:
    """`git status` in short, without dvc.lock: that one is a result."""
    return _git(root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!**/dvc.lock.partial")


def patch(root: Path) -> str:
    """What leads from the commit to the files as they are, with new files of up to PATCH_FILE bytes."""
    parts = [_git(root, "diff", "--binary", "HEAD", "--", ".", ":!dvc.lock")]
    for name in _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0"):
        if name and name != "dvc.lock" and (root / name).stat().st_size <= PATCH_FILE:
            parts.append(_git(root, "diff", "--no-index", "--binary", "--", os.devnull, name, differs=True))
        elif name and name != "dvc.lock":
            parts.append(f"# left out, larger than {PATCH_FILE} bytes: {name}\n")
    return "".join(parts)


def changed_since(root: Path, file: str, folder: str) -> dict[str, str]:
    """{path: modified, new or deleted} of what has changed in `folder` since the commit that last changed `file`."""
    commit = _git(root, "log", "--max-count=1", "--format=%H", "--", file).strip()
    if not commit:
        return {}
    words = {"A": "new", "D": "deleted"}
    lines = _git(root, "diff", "--name-status", "--no-renames", commit, "--", folder).splitlines()
    changed = {path: words.get(letter, "modified") for letter, _, path in (line.partition("\t") for line in lines)}
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", folder).splitlines()
    return changed | dict.fromkeys(untracked, "new")


def _git(root: Path, *arguments: str, differs: bool = False) -> str:
    """The output of a git command, or nothing where it fails; `git diff --no-index` ends with 1 when it differs."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == int(differs) else ""


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
