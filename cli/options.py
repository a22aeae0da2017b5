"""Options, the console and the workspace, which commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def console(*, stderr: bool = False) -> Console:
    """The console that tables are printed to."""
    from rich.console import Console

    return Console(stderr=stderr)


def open_workspace(stages: list[str]) -> Path:
    """Make the workspace the current folder and return it. Raises GraphError if dvc.yaml lacks one of the stages."""
    from pretune.config import files
    from pretune.lineage.graph import Workspace, find_root

    root = find_root()
    os.chdir(root)
    files.read_yaml(root / "params.yaml")  # before DVC, whose message is less clear
    workspace = Workspace(root)
    for name in stages or list(workspace.nodes)[:1]:
        workspace.node(name)
    return root
