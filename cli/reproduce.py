"""`pretune reproduce`: make what a run made once more, and say how near it comes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

SHORT = 12  # characters of a hash that are shown


def reproduce(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A stage run; or a pipeline run, @alias or git revision: all its stages."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Rerun it in a worktree at its commit, compare the outputs: bitwise, within tolerance or different."""
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release import reproduce as reproducing
    from pretune.release.runs import Runs

    root = find_root()
    runs = Runs(root, state_dir(root), params.load(root / "params.yaml").gate.name)
    found = reproducing.reproduce(runs, run, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        for each in found.outputs:
            mark = "same  " if each.md5 == each.again else "DIFFERS"
            print(f"{mark}  {each.stage:<9} {each.path:<28} {each.md5[:SHORT]}  {each.again[:SHORT]}")
        print("\n".join([*found.notes, f"verdict: {found.verdict}"]))
    if found.verdict == "different":
        raise typer.Exit(12)
