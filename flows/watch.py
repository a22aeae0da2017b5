"""A flow that looks whether data or code have changed, for a schedule: `pretune-watch/watch` in prefect.yaml.

What is out of date, DVC says. The event `pretune.data.changed` is sent once for each state of the files, so that a run
that fails is not started again before somebody changes something.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from prefect import flow

from flows import events
from pretune import process
from pretune.errors import DataError, LockedError, WorkspaceError
from pretune.lineage.graph import Workspace, find_root, stage_key, state_dir


@flow(name="pretune-watch", log_prints=True)
def watch(*, pull: bool = False) -> list[str]:
    """The stages that are out of date, told in an event. pull: after `git pull --ff-only`."""
    root = find_root()
    process.reach_loopback_directly()
    state = state_dir(root)
    try:
        with process.lock(state / "locks" / "run.lock", "a pipeline run"):
            if pull:
                _pull(root)
            workspace = Workspace(root, wait=True)
            stale = [decision for decision in workspace.plan([]) if decision.action != "skip"]
            now = {decision.stage: _key(workspace, decision.stage) for decision in stale}
    except LockedError as error:
        print(f"{error}: looked at next time")
        return []
    seen = state / "watched.json"
    before = json.loads(seen.read_text(encoding="utf-8")) if seen.is_file() else {}
    seen.write_text(json.dumps(now), encoding="utf-8")
    if not now or now == before:
        print("nothing is out of date that was not told before" if now else "nothing is out of date")
        return []
    for decision in stale:
        print(f"{decision.stage}: {', '.join(decision.reasons) or decision.action}")
    events.emit(root, events.CHANGED, f"workspace.{root.name}", {"stages": [asdict(decision) for decision in stale]})
    return list(now)


def _key(workspace: Workspace, stage: str) -> str:
    """What the stage would read, as a hash; what is missing, where that is not made yet."""
    try:
        return stage_key(workspace.entry(stage))
    except DataError as error:
        return "; ".join(error.problems)


def _pull(root: Path) -> None:
    command = ["git", "pull", "--ff-only", "--quiet"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkspaceError(f"git pull: {' '.join((done.stderr or done.stdout).split())}", "git status")
