"""`pretune promote` and `pretune rollback`: which model is in use."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pretune.promotion import Verdict

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def promote(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run or git revision; default: the newest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a model as @challenger, and make it @champion if the gate in params.yaml lets it pass."""
    from pretune.lineage import find_root

    verdict = decide(find_root(), run)
    if as_json:
        print(json.dumps(asdict(verdict) | {"passed": verdict.passed}))
    else:
        print(told(verdict))
    if not verdict.passed:
        raise typer.Exit(12)


def decide(root: Path, run: str | None) -> Verdict:
    """Promote a run's model (default: the newest) as the workspace's gate says."""
    from pretune import params, promotion
    from pretune.lineage import Workspace, state_dir
    from pretune.runs import Evaluation, Runs

    settings = params.load(root / "params.yaml")
    workspace = Workspace(root)

    def missing(found: Evaluation) -> list[str]:
        made = {md5: path for record in found.stages.values() for path, md5 in record.outputs.items()}
        return [f"the remote lacks {made[md5]}" for md5 in workspace.missing_from_remote(list(made))]

    return promotion.promote(Runs(root, state_dir(root), settings.gate.name), settings, run, missing)


def told(verdict: Verdict) -> str:
    """Every point of the gate, and what follows."""
    former = f" (before: version {verdict.former})" if verdict.former not in {None, verdict.version} else ""
    end = f"is @champion now{former}" if verdict.passed else "is @challenger; the champion stays"
    return "\n".join([*map(str, verdict.checks), f"version {verdict.version} of {verdict.name} {end}"])


def rollback(as_json: Json = False) -> None:
    """Make the former champion @champion again."""
    from pretune import params, promotion
    from pretune.lineage import find_root, state_dir
    from pretune.registry import Registry
    from pretune.tracking import connect

    root = find_root()
    name = params.load(root / "params.yaml").gate.name
    client, _ = connect(root, state_dir(root))
    was, now = promotion.rollback(Registry(client, name))
    print(json.dumps({"was": was, "is": now}) if as_json else f"version {now} of {name} is @champion again (was {was})")
