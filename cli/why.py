"""`pretune why`: show what changed since a stage last ran."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json, open_workspace


def why(stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")], as_json: Json = False) -> None:
    """Show what changed since a stage last ran: params (old → new), data, code."""
    from pretune.lineage.graph import Workspace

    changes = Workspace(open_workspace([stage])).why(stage)
    if as_json:
        print(json.dumps(changes))
        return
    lines = [f"params  {key}: {old} → {new}" for key, (old, new) in changes["params"].items()]
    lines += [f"data    {path}: {state}" for path, state in changes["deps"].items()]
    lines += [f"code    {path}: {state}" for path, state in changes["code"].items()]
    lines += [f"output  {path}: {state}" for path, state in changes["outs"].items()]
    lines += ["command changed"] if changes["command"] else []
    print("\n".join(lines) or f"{stage}: nothing changed since it last ran")
