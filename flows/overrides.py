"""`--set`: run with other parameters in a copy of the workspace, whose own files stay as they are.

The copy shares DVC's cache: if params.yaml gets the same values later, the results are restored from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretune import process
from pretune.config import overrides
from pretune.errors import WorkspaceError
from pretune.lineage import dvc_config, graph

_one_at_a_time = threading.Lock()  # DVC reads a graph with objects that its threads share


@contextmanager
def workspace_copy(root: Path, assignments: list[str]) -> Iterator[Path]:
    """A copy of the files that git would track, with `assignments` applied to params.yaml."""
    state = graph.state_dir(root)
    copy = state / "override"
    with process.lock(state / "locks" / "override.lock", "a run with --set"):
        try:
            make_copy(root, copy, assignments)
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def make_copy(root: Path, copy: Path, assignments: list[str]) -> None:
    """Make `copy`, whose outputs are restored from the cache that both share; what was there is removed."""
    with _one_at_a_time:
        _make_copy(root, copy, assignments)


def _make_copy(root: Path, copy: Path, assignments: list[str]) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in _files(root):
        if (source := root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)
    overrides.override(root / "params.yaml", assignments, copy / "params.yaml")
    _share_cache(root, copy)
    _copy_inputs(root, copy)
    graph.Workspace(copy).checkout()


def _files(root: Path) -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise WorkspaceError(f"{root} is not in a git repository", "git init") from None
    return sorted({os.fsdecode(name) for name in done.stdout.split(b"\0") if name})


def _share_cache(root: Path, copy: Path) -> None:
    config = dvc_config.read_config(root)
    core = {"no_scm": "true", "site_cache_dir": str(root / ".dvc" / "tmp" / "site")}
    dvc_config.write_config(copy, config, {"core": core, "cache": {"dir": str(dvc_config.cache_dir(root))}})


def _copy_inputs(root: Path, copy: Path) -> None:
    """Copy the user's own data: inputs that no stage writes and git does not track."""
    workspace = graph.Workspace(copy)
    outs = {out for node in workspace.nodes.values() for out in node.outs}
    for node in workspace.nodes.values():
        for path in node.data:
            if path not in outs and not (copy / path).exists() and (root / path).exists():
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                copy_any = shutil.copytree if (root / path).is_dir() else shutil.copy2
                copy_any(root / path, copy / path)
