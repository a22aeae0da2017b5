"""What the commands share: options, the console, the workspace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def console(*, stderr: bool = False) -> Console:
    """Where tables are printed."""
    from rich.console import Console

    return Console(stderr=stderr)


def open_workspace(stages: list[str]) -> Path:
    """The workspace, made the current folder. GraphError where dvc.yaml has no stage of these names."""
    from pretune.config import files
    from pretune.lineage.graph import Workspace, find_root

    root = find_root()
    os.chdir(root)
    files.read_yaml(root / "params.yaml")  # before DVC, whose message says less
    workspace = Workspace(root)
    for name in stages or list(workspace.nodes)[:1]:
        workspace.node(name)
    return root
