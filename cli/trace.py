"""`pretune trace`: show which data, parameters and commit made a model, and which models data went into."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json


def trace(
    target: Annotated[
        str, typer.Argument(metavar="PATH|MD5|RUN_ID|@ALIAS", help="An output, a hash, a run or a registered model.")
    ],
    every_param: Annotated[
        bool, typer.Option("--params", help="Show all parameters, not only those that changed.")
    ] = False,
    every_run: Annotated[
        bool, typer.Option("--all", help="Show every run that read the data, not only the newest.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Trace a model back to data, commit and changed parameters; trace data forward to every model."""
    from pretune.config import files
    from pretune.lineage.graph import Workspace, find_root, state_dir
    from pretune.release.runs import Runs
    from pretune.tracking.trace import NEWEST, Tracer, tree

    root = find_root()
    params = files.flatten(files.read_yaml(root / "params.yaml"))
    locked = Workspace(root).locked_outputs()
    runs = Runs(root, state_dir(root), params["gate.name"])
    made = runs.evaluation(target).model if target.startswith("@") else None
    lineage = Tracer(runs.records, locked, None if every_run else NEWEST).trace(made[1].run_id if made else target)
    if as_json:
        print(json.dumps(lineage))
        return
    from rich.console import Console

    current = None if every_param else {key: str(value) for key, value in params.items()}
    Console().print(tree(lineage, current))
