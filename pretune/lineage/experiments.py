"""DVC's experiments: commits under refs/exps, on top of the commit that they vary, in no branch."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

from pretune.errors import ParamsError, WorkspaceError

FOLDER = (".dvc", "tmp", "exps")  # where `dvc exp run --queue` and `--temp` make their workspaces
NOBODY = {"NAME": "Pretune", "EMAIL": "pretune@localhost"}  # whose commits these are, where git knows no one
FILE = "100644"  # git's mode of a file


def origin(root: Path) -> Path | None:
    """The workspace from which DVC made `root` for a queued experiment; None if `root` is no such folder.

    DVC deletes the folder when the experiment ends, so what is to stay has to go to the workspace.
    """
    for folder in root.parents:
        if folder.parts[-len(FOLDER) :] == FOLDER:
            return folder.parents[len(FOLDER) - 1]
    return None


def keep(root: Path, name: str, params: str, lock: str) -> str:
    """Make a DVC experiment of the texts of a params.yaml and a dvc.lock; return the hash of its commit.

    Its tree is that of HEAD, with these two files: uncommitted changes of others are not part of it, so `lock` should
    be of the code and the dvc.yaml of HEAD. The files, the index and HEAD of the repository stay as they are. If an
    experiment of this name holds the same already, nothing is done.

    Raises WorkspaceError without git or a commit, ParamsError if DVC allows no such name or it names another result.
    """
    head = _head(root)
    reference = _reference(head, name)
    if "/" in name or _git(root, "check-ref-format", reference) is None:
        raise ParamsError(
            f"{name!r} cannot be the name of an experiment: git allows no such reference, or it holds a /",
            "choose a name of letters, digits, - and _",
        )
    tree = _tree(root, head, {"params.yaml": params, "dvc.lock": lock})
    existing = _git(root, "rev-parse", "--verify", "--quiet", reference)
    if existing is None:
        commit = _output(
            root, "commit-tree", tree, "-p", head, "-m", f"dvc: commit experiment {_digest(lock)}", **_identity(root)
        )
        if _git(root, "update-ref", reference, commit, "0" * len(head)) is not None:
            return commit
        existing = _output(root, "rev-parse", "--verify", reference)  # another process was faster
    if _output(root, "rev-parse", f"{existing}^{{tree}}") != tree:
        raise ParamsError(
            f"there is an experiment {name} of this commit already, with another result",
            f"dvc exp remove {name}   (or choose another name)",
        )
    return existing


def listed(root: Path) -> list[str]:
    """The names of the experiments on top of HEAD, sorted. Raises WorkspaceError without git or a commit."""
    prefix = _reference(_head(root), "")
    references = _output(root, "for-each-ref", "--format=%(refname)", prefix).splitlines()
    return sorted(reference.removeprefix(prefix) for reference in references)


def _reference(head: str, name: str) -> str:
    """As dvc.repo.experiments.refs.ExpRefInfo writes it."""
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def _head(root: Path) -> str:
    if _git(root, "rev-parse", "--git-dir") is None:
        raise WorkspaceError(f"{root} is not in a git repository", "git init")
    head = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if head is None:
        raise WorkspaceError(
            f"{root} has no commit, which an experiment is based on", "git add --all && git commit --message 'start'"
        )
    return head


def _tree(root: Path, head: str, texts: dict[str, str]) -> str:
    """The hash of HEAD's tree with these files of `root` replaced; an index of its own leaves git's as it is."""
    prefix = _output(root, "rev-parse", "--show-prefix")
    top = Path(_output(root, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory(prefix="pretune-index-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _output(top, "read-tree", head, **index)
        for name, text in texts.items():
            path = prefix + name
            blob = _output(top, "hash-object", "-w", "--stdin", "--path", path, content=text)
            _output(top, "update-index", "--add", "--cacheinfo", f"{FILE},{blob},{path}", **index)
        return _output(top, "write-tree", **index)


def _identity(root: Path) -> dict[str, str]:
    """Variables that name an author and a committer, if git knows none."""
    roles = ("AUTHOR", "COMMITTER")
    if all(_git(root, "-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT") is not None for role in roles):
        return {}
    names = {f"GIT_{role}_{key}": value for role in roles for key, value in NOBODY.items()}
    return {name: os.environ.get(name) or value for name, value in names.items()}


def _digest(lock: str) -> str:
    """The hash that DVC puts into the message of an experiment's commit: that of the stages of dvc.lock."""
    from dvc.utils import dict_sha256

    return str(dict_sha256((YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})))


def _git(root: Path, *arguments: str, content: str = "", **environment: str) -> str | None:
    """The output of a git command without the end of the line; None if it fails."""
    done = _run(root, arguments, content, environment)
    return done.stdout.rstrip("\n") if done and done.returncode == 0 else None


def _output(root: Path, *arguments: str, content: str = "", **environment: str) -> str:
    """The same of a command that fails only if the repository is damaged or may not be written to: WorkspaceError."""
    done = _run(root, arguments, content, environment)
    if done is None or done.returncode:
        reason = (done.stderr.strip() if done else "") or "it cannot be started"
        raise WorkspaceError(f"git {arguments[0]}: {reason}", "git fsck   (shows what git finds wrong)")
    return done.stdout.rstrip("\n")


def _run(
    root: Path, arguments: tuple[str, ...], content: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=root, env=os.environ | environment, input=content, capture_output=True,
            encoding="utf-8", errors="surrogateescape", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
