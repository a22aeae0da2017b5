"""`pretune reproduce`: rerun a run and compare the outputs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cli.options import Json

SHORT = 12  # characters of a hash that are shown


def reproduce(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A stage run; or a pipeline run, @alias or git revision, for all stages."),
    ],
    as_json: Json = False,
) -> None:
    """Rerun a run in a worktree at its commit, and say whether the outputs are the same, near or different."""
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release import reproduce as reproducer
    from pretune.release.runs import Runs

    root = find_root()
    runs = Runs(root, state_dir(root), params.load(root / "params.yaml").gate.name)
    reproduction = reproducer.reproduce(runs, run, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(asdict(reproduction)))
    else:
        for output in reproduction.outputs:
            mark = "same  " if output.md5 == output.again else "DIFFERS"
            print(f"{mark}  {output.stage:<9} {output.path:<28} {output.md5[:SHORT]}  {output.again[:SHORT]}")
        print("\n".join([*reproduction.notes, f"verdict: {reproduction.verdict}"]))
    if reproduction.verdict == "different":
        raise typer.Exit(12)
