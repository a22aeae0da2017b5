"""Which commit, machine and library versions a run used."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from pretune.lineage import secrets

LEFT_OUT = "# left out"  # in a patch: a file that it does not contain
SECRET = f"{LEFT_OUT}, looks like a secret"
PATCH_FILE = 100_000  # bytes of an untracked file that still goes into the patch
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "mlflow", "dvc", "prefect")


def tags(root: Path) -> dict[str, str]:
    """Commit, hardware and library versions, as tags. Without a commit all that there is counts as a change."""
    head = commit(root)
    return {
        "git.commit": head,
        "git.dirty": str(head == "none" or bool(changes(root))).lower(),
        "host.platform": platform.platform(),
        "host.processor": _processor(),
        "host.cores": str(os.cpu_count()),
        "version.python": platform.python_version(),
        **{f"version.{library}": metadata.version(library) for library in LIBRARIES},
    }


def commit(root: Path) -> str:
    """The commit that is checked out, or `none`."""
    return _git(root, "rev-parse", "--verify", "HEAD").strip() or "none"


def changes(root: Path) -> str:
    """The output of `git status --porcelain`, without dvc.lock, which is a result."""
    return _git(root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!**/dvc.lock.*partial")


def patch(root: Path) -> str:
    """The patch from the commit to the files as they are, with files in no commit of up to PATCH_FILE bytes.

    What looks like a secret is left out: others read a record. A line `# left out, REASON: NAME` stands for the file.
    """
    changed = _git(root, "diff", "--name-only", "--no-renames", "-z", "--relative", "HEAD", "--", ".", ":!dvc.lock")
    parts = {
        name: _git(root, "diff", "--binary", "--no-renames", "HEAD", "--", f":(literal){name}")
        for name in filter(None, changed.split("\0"))
    }
    new = ["--others", *(["--cached"] if commit(root) == "none" else [])]
    for name in _git(root, "ls-files", "-z", *new, "--exclude-standard").split("\0"):
        if not name or name == "dvc.lock" or not (root / name).is_file():
            continue
        if (root / name).stat().st_size <= PATCH_FILE:
            parts[name] = _git(root, "diff", "--no-index", "--binary", "--", os.devnull, name, differs=True)
        else:
            parts[name] = f"{LEFT_OUT}, larger than {PATCH_FILE} bytes: {name}\n"
    kinds = {name: secrets.found(name, part) for name, part in parts.items()}
    return "".join(f"{SECRET} ({kinds[name]}): {name}\n" if kinds[name] else part for name, part in parts.items())


def warnings(patch: str) -> list[str]:
    """A warning for each file that a patch lacks because it looks like a secret."""
    lines = [line.removeprefix(SECRET) for line in patch.splitlines() if line.startswith(SECRET)]
    return [f"left out of the record, since it looks like a secret{line}; .gitignore ends this" for line in lines]


def changed_since(root: Path, file: str, folder: str) -> dict[str, str]:
    """{path: modified, new or deleted} of the files in `folder` changed since the last commit that changed `file`."""
    last_commit = _git(root, "log", "--max-count=1", "--format=%H", "--", file).strip()
    if not last_commit:
        return {}
    words = {"A": "new", "D": "deleted"}
    lines = _git(root, "diff", "--name-status", "--no-renames", last_commit, "--", folder).splitlines()
    changed = {path: words.get(letter, "modified") for letter, _, path in (line.partition("\t") for line in lines)}
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", folder).splitlines()
    return changed | dict.fromkeys(untracked, "new")


def _git(root: Path, *arguments: str, differs: bool = False) -> str:
    """The output of a git command; "" if it fails. differs: success is exit code 1, as of `git diff --no-index`."""
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
