"""`python -m tasks STAGE`: run one stage. It is what dvc.yaml calls; by hand it does the same.

Run by hand, the stage records itself in dvc.lock when it has succeeded.
"""

from __future__ import annotations

import os
import sys

from pretune.process import die_with_parent

# Read when torch loads: waiting threads must not spin for long, yet to be woken costs more than a small operation.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
if {"DVC_STAGE", "PRETUNE_WORKER"} & os.environ.keys():  # first: who started this may be killed at any moment
    die_with_parent()

try:
    import pydantic  # noqa: F401 - the first thing that a Python without our environment lacks
except ModuleNotFoundError:
    sys.exit(
        f"error: {sys.executable} lacks Pretune's packages\n"
        "next:  make setup && source .venv/bin/activate   (then the same command again)"
    )

import importlib
import json
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.config.params import Params, advice, load
from pretune.errors import GraphError, PretuneError, TerminatedError
from pretune.lineage import provenance
from pretune.lineage.graph import Entry, Node, Workspace, find_root, state_dir
from pretune.process import leave, lock, terminating
from pretune.runtime import launcher, monitoring, worker
from pretune.runtime.progress import PIPE, Progress, for_stage, send
from pretune.runtime.stage import PublishedStage, Stage
from pretune.tracking.journal import Run
from pretune.tracking.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIPELINE = {"parent": "PRETUNE_PARENT_RUN", "prefect_run": "PRETUNE_PREFECT_RUN"}  # what a stage belongs to: its runs
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "true"}


def main(arguments: list[str], is_current: Callable[[], bool] = lambda: True) -> int:
    """Run the stage named on the command line; return its exit code.

    `is_current`: whether the code that this process has imported is still that of the files.
    """
    if worker.WORKER in os.environ:
        return worker.main(arguments[0], function)
    root = None
    try:
        root = find_root()
        workspace = Workspace(root)
        names = list(workspace.nodes)
        if len(arguments) != 1 or arguments[0].startswith("-"):
            print(f"usage: python -m tasks STAGE\nstages: {', '.join(names)}\nexample: python -m tasks prepare")
            return 0 if arguments in (["--help"], ["-h"]) else 2
        workspace.node(arguments[0])
        with terminating():
            if os.environ.get(launcher.NODE_RANK, "0") == "0":
                run_stage(workspace, arguments[0], is_current)
            else:
                settle()
                launcher.join(root, state_dir(root), arguments[0])
    except PretuneError as error:
        report(root, error)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def settle() -> None:
    """Set what libraries read from the environment when they are imported."""
    os.environ |= OFFLINE | NO_BARS
    if os.environ.get("PRETUNE_DOWNLOAD") == "1":  # `model.init` may be fetched: models/build.py
        os.environ["HF_HUB_OFFLINE"] = "0"


def run_stage(workspace: Workspace, name: str, is_current: Callable[[], bool]) -> None:
    """Check everything, run the stage, publish its outputs, record it."""
    root, by_hand = workspace.root, "DVC_STAGE" not in os.environ
    state = state_dir(root)
    settle()
    with lock(state / "locks" / f"{name}.lock", f"stage {name}"):
        (state / "last-error.json").unlink(missing_ok=True)
        if not by_hand and workspace.is_orphan(name):
            raise TerminatedError("the dvc process that started this stage is gone", "pretune run")
        entry = workspace.entry(name)  # first: what is edited from here on is found when the stage ends
        if not is_current():  # the same process begins anew
            os.execv(sys.executable, [sys.executable, "-m", "tasks", name])  # noqa: S606
        params = load(root / "params.yaml")
        if name == "finetune" and PIPE not in os.environ:  # the flow has said it
            for line in advice(params):
                print(f"warning: {line}", file=sys.stderr)
        progress, runs = for_stage(name), {key: os.environ.get(variable) for key, variable in PIPELINE.items()}
        try:
            perform(root, state, workspace.node(name), entry, params=params, progress=progress, **runs)
        finally:
            progress.close()
        if by_hand:
            workspace.commit(name)
            print(f"{name}: done, recorded in dvc.lock", file=sys.stderr)


def perform(
    root: Path, state: Path, node: Node, entry: Entry, *, params: Params, progress: Progress, **runs: str | None
) -> None:
    """Run a stage that is locked, publish its outputs and record it; `runs`: those of the pipeline (see recorded)."""
    with recorded(root, state, node.name, **runs) as run:
        stage = PublishedStage(root, node, entry, params=params, run=run, progress=progress)
        stage.log_inputs()
        try:
            with monitored(run, node, params):
                if launcher.is_distributed(node, params):
                    launcher.lead(launcher.WorkerGroup(root, state, node, entry, params), stage, progress)
                else:
                    function(node.name)(stage)
            stage.publish()
        finally:
            stage.discard()


@contextmanager
def recorded(
    root: Path, state: Path, name: str, *, parent: str | None = None, prefect_run: str | None = None
) -> Iterator[Run]:
    """A run that ends as the block does; what varies (time) goes to it, never to an output.

    `parent` is the pipeline run that the stage belongs to, which then sends the record.
    """
    tags = provenance.tags(root) | {"pretune.kind": "stage", "pretune.status": "executed"}
    if prefect_run:
        tags["prefect.flow_run_id"] = prefect_run
    run = Run(state, name, parent=parent, tags=tags)
    if tags["git.dirty"] == "true":
        run.text("changes.patch", provenance.patch(root))
    sender = None if parent else Sender(root, state).start()
    began, status = time.monotonic(), "FAILED"
    try:
        yield run
        status = "FINISHED"
        run.metrics({"seconds": time.monotonic() - began})
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 0) == 143:
            status = "KILLED"
        raise
    finally:
        run.end(status)
        facts = {"seconds": round(time.monotonic() - began, 1), "outputs": run.outputs, "metrics": run.latest}
        remember(state, name, parent=parent, run=run.id, status=status, **facts)
        if sender and (warning := sender.close([run])):
            print(f"warning: {warning}", file=sys.stderr)


@contextmanager
def monitored(run: Run, node: Node, params: Params) -> Iterator[None]:
    """During the block, record the energy and load of a stage that trains; several processes record their own load."""
    with ExitStack() as stack:
        if launcher.trains(node, params):
            stack.enter_context(monitoring.energy(run.metrics, params.launch.processes))
            if not launcher.is_distributed(node, params):
                stack.enter_context(monitoring.system(run.metrics))
        yield


def remember(state: Path, name: str, **facts: object) -> None:
    """Leave how the stage last went: the flow reads it, `pretune plan` its time, the report what training took."""
    path = state / "stages" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.rename(path)


def function(name: str) -> Callable[[Stage], None]:
    """The function of a stage: its own name, in the file of its name."""
    try:
        found: Callable[[Stage], None] = getattr(importlib.import_module(f"tasks.{name}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"tasks.{name}":
            raise
        raise GraphError(
            f"dvc.yaml has a stage {name}, but there is no tasks/{name}.py", f"write tasks/{name}.py"
        ) from None
    return found


def report(root: Path | None, error: PretuneError) -> None:
    """Print a user's mistake and leave it where the flow finds it: DVC returns 255 for all of them."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    if error.next_step:
        print(f"next:  {error.next_step}", file=sys.stderr)
    if os.environ.get(PIPE):
        send("error", **error.as_dict())
    if root:
        state = state_dir(root)
        state.mkdir(parents=True, exist_ok=True)
        (state / "last-error.json").write_text(json.dumps(error.as_dict()), encoding="utf-8")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
