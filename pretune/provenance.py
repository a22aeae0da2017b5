"""Which code, on which machine, with which libraries: what a run's record says besides its data."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path

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
    """What leads from the commit to the files as they are, new files included."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", "HEAD", env=index)
        _git(root, "add", "--all", "--", ".", ":!dvc.lock", env=index)
        return _git(root, "diff", "--cached", "--binary", "HEAD", env=index)


def _git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=os.environ | (env or {}), capture_output=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
