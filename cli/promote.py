"""`pretune promote` and `pretune rollback`: which model is in use."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def promote(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run or git revision; default: the newest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a model as @challenger, and make it @champion if the gate in params.yaml lets it pass."""
    from pretune.lineage.graph import find_root
    from pretune.release.promotion import decide

    verdict = decide(find_root(), run)
    if as_json:
        print(json.dumps(asdict(verdict) | {"passed": verdict.passed}))
    else:
        print(verdict)
    if not verdict.passed:
        raise typer.Exit(12)


def rollback(as_json: Json = False) -> None:
    """Make the former champion @champion again."""
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release import promotion
    from pretune.release.registry import Registry
    from pretune.tracking.client import connect

    root = find_root()
    name = params.load(root / "params.yaml").gate.name
    client, _ = connect(root, state_dir(root))
    was, now = promotion.rollback(Registry(client, name))
    print(json.dumps({"was": was, "is": now}) if as_json else f"version {now} of {name} is @champion again (was {was})")
