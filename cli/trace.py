"""`pretune trace`: which data, parameters and commit made a model, and what was made of data."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def trace(
    what: Annotated[str, typer.Argument(metavar="PATH|MD5|RUN_ID", help="An output, a hash or an MLflow run.")],
    every_param: Annotated[bool, typer.Option("--params", help="All parameters, not those that differ only.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every run that read the data, not the newest only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Lead from a model back to data, commit and parameters that are others now; from data forward to every model."""
    from pretune.config import files
    from pretune.lineage.graph import Workspace, find_root, state_dir
    from pretune.tracking.records import Records
    from pretune.tracking.trace import NEWEST, Tracer, tree

    root = find_root()
    now = files.flatten(files.read_yaml(root / "params.yaml"))
    locked = Workspace(root).locked_outputs()
    found = Tracer(Records(root, state_dir(root)), locked, None if everything else NEWEST).trace(what)
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console

    shown = None if every_param else {key: str(value) for key, value in now.items()}
    Console().print(tree(found, shown))
