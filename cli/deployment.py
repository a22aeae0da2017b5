"""`pretune notify` and `pretune approve`: what people have to do with the runs of a Prefect server."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json


def notify(
    block: Annotated[
        str, typer.Argument(metavar="TYPE/NAME", help="A notification block, as `prefect block ls` shows.")
    ],
    as_json: Json = False,
) -> None:
    """Have Prefect notify you: a run failed or waits, the gate refused, the champion changed."""
    from flows import prefect_api
    from pretune.lineage.graph import find_root

    root = find_root()
    with prefect_api.server(root) as client:
        from flows import notifications  # Prefect reads its settings when it is imported

        names = notifications.create(client, root, block)
    print(json.dumps(names) if as_json else "\n".join(f"{name}: by {block}" for name in names))


def approve(
    flow_run: Annotated[
        str | None, typer.Argument(metavar="FLOW_RUN", help="Its id or name; default: the one that waits.")
    ] = None,
    refuse: Annotated[bool, typer.Option("--refuse", help="The champion stays.")] = False,
    reason: Annotated[str, typer.Option(help="Stored with the version.")] = "",
    as_json: Json = False,
) -> None:
    """Answer a flow run that waits for approval: let the model that passed the gate become @champion."""
    from flows import prefect_api
    from pretune.lineage.graph import find_root

    with prefect_api.server(find_root()) as client:
        from flows import approval

        run = approval.answer(client, flow_run, promote=not refuse, reason=reason)
    answer = "refused" if refuse else "approved"
    print(json.dumps({"flow_run": str(run.id), "answer": answer}) if as_json else f"{run.name}: {answer}")
