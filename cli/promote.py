"""`pretune promote` and `pretune rollback`: change which model is @champion."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from cli.options import Json


def promote(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run or git revision; default: the newest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a model as @challenger, and make it @champion if it passes the gate in params.yaml."""
    from flows import events
    from pretune.lineage.graph import find_root

    verdict = events.promote(find_root(), run)
    if as_json:
        print(json.dumps(asdict(verdict) | {"passed": verdict.passed}))
    else:
        print(verdict)
    if not verdict.passed:
        raise typer.Exit(12)


def rollback(as_json: Json = False) -> None:
    """Make the former champion @champion again."""
    from flows import events
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release.registry import Registry
    from pretune.tracking.client import connect

    root = find_root()
    name = params.load(root / "params.yaml").gate.name
    client, _ = connect(root, state_dir(root))
    old, new = events.rollback(root, Registry(client, name))
    print(json.dumps({"was": old, "is": new}) if as_json else f"version {new} of {name} is @champion again (was {old})")
