"""`pretune plan`: show what a run would do and why, and what training would cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json, console, open_workspace


def plan(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to plan for; default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not estimate what training costs.")] = False,
    as_json: Json = False,
) -> None:
    """Show whether each stage would run, be restored or be skipped, and why; and estimate what training costs."""
    from cli import estimates
    from flows.schedule import last_seconds
    from pretune.config.params import load
    from pretune.lineage.graph import Workspace, state_dir
    from pretune.objectives import requirements

    root = open_workspace(stages or [])
    params = load(root / "params.yaml")
    workspace = Workspace(root)
    workspace.check_inputs(stages or [])
    decisions = workspace.plan(stages or [])
    if any(d.stage == "ingest" and d.action == "skip" for d in decisions) and len(decisions) > 1:
        requirements.check(root / "data" / "raw", params.objectives)
    seconds = {d.stage: last_seconds(state_dir(root), d.stage) for d in decisions}
    stderr = console(stderr=True)
    costs = {} if quick else estimates.estimates(root, decisions, lambda text: stderr.print(text, markup=False))
    if as_json:
        facts = [{"last_seconds": seconds[d.stage], "estimate": costs.get(d.stage)} for d in decisions]
        print(json.dumps([vars(d) | fact for d, fact in zip(decisions, facts, strict=True)]))
        return
    from rich.table import Table

    table = Table("stage", "action", "last time", "why")
    for decision in decisions:
        last = seconds[decision.stage]
        reasons = _shorten(decision.reasons) or "nothing changed"
        table.add_row(decision.stage, decision.action, f"{last:.0f} s" if last else "", reasons)
    screen = console()
    screen.print(table)
    runs = [d.stage for d in decisions if d.action == "run"]
    total = sum(seconds[name] or 0 for name in runs)
    screen.print(
        f"{len(runs)} of {len(decisions)} stages to run" + (f", {total:.0f} s when they last ran" if total else ""),
        highlight=False,
    )
    if known := estimates.rows(costs):
        table = Table(*estimates.HEADINGS)
        for row in known:
            table.add_row(*row)
        screen.print(table)
    for line in estimates.unknown(costs):
        screen.print(line, markup=False, highlight=False)


def _shorten(reasons: list[str], limit: int = 3) -> str:
    more = [f"… and {len(reasons) - limit} more (pretune why)"] if len(reasons) > limit else []
    return "\n".join(reasons[:limit] + more)
