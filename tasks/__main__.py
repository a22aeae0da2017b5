"""`python -m tasks STAGE`: run one stage. dvc.yaml calls it; a user may call it too.

If a user calls it, the stage records itself in dvc.lock when it has succeeded.
"""

from __future__ import annotations

import os
import sys

from pretune.process import die_with_parent

# OpenMP reads both when torch loads. Waiting threads must not spin for long, but waking one costs more than a small
# operation.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
if {"DVC_STAGE", "PRETUNE_WORKER"} & os.environ.keys():  # first: the parent may be killed at any moment
    die_with_parent()

try:
    import pydantic  # noqa: F401 - the first package that a Python outside our environment lacks
except ModuleNotFoundError:
    sys.exit(
        f"error: {sys.executable} lacks Pretune's packages\n"
        "next:  make setup && source .venv/bin/activate   (then the same command again)"
    )

import importlib
import json
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.config.files import remove_leftovers, write_atomically
from pretune.config.params import Params, advice, load
from pretune.errors import GraphError, PretuneError, TerminatedError, machine_error
from pretune.lineage import experiments, provenance
from pretune.lineage.graph import Entry, Node, Workspace, find_root, state_dir
from pretune.objectives import requirements
from pretune.process import NO_BARS, leave, lock, reach_loopback_directly, terminating
from pretune.runtime import launcher, monitoring, worker
from pretune.runtime.progress import PIPE, Progress, for_stage, send
from pretune.runtime.stage import PublishedStage, Stage
from pretune.tracking.journal import Run
from pretune.tracking.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIPELINE = {"parent": "PRETUNE_PARENT_RUN", "prefect_run": "PRETUNE_PREFECT_RUN"}  # variables with ids of runs
HOME = "PRETUNE_HOME"  # set for a trial of a sweep, which has a state of its own: the workspace
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}


def main(arguments: list[str], is_current: Callable[[], bool] = lambda: True) -> int:
    """Run the stage named on the command line; return its exit code.

    is_current: whether the files still hold the code that this process has imported.
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
                launcher.run_on_other_machine(root, state_dir(root), arguments[0])
    except PretuneError as error:
        report(root, error)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        stop = stop_in(error)
        known = stop if isinstance(stop, TerminatedError) else machine_error(error)
        if known is None:
            raise
        report(root, known)
        return known.exit_code
    return 0


def stop_in(error: BaseException) -> BaseException | None:
    """The stop by a signal that an error is or was made of: packages that import lazily wrap what interrupts them."""
    while error and not isinstance(error, KeyboardInterrupt | TerminatedError):
        error = error.__cause__ or error.__context__  # type: ignore[assignment] # None ends the loop
    return error


def settle() -> None:
    """Set the environment variables that libraries read when they are imported."""
    os.environ |= OFFLINE | NO_BARS
    reach_loopback_directly()
    if os.environ.get("PRETUNE_DOWNLOAD") == "1":  # then models/build.py may fetch `model.init`
        os.environ["HF_HUB_OFFLINE"] = "0"


def run_stage(workspace: Workspace, name: str, is_current: Callable[[], bool]) -> None:
    """Check params and code, run the stage, publish its outputs, record it."""
    root, by_hand = workspace.root, "DVC_STAGE" not in os.environ
    state = state_dir(root)
    settle()
    with lock(state / "locks" / f"{name}.lock", f"stage {name}"):
        (state / "last-error.json").unlink(missing_ok=True)
        remove_leftovers(root, root / ".dvc", root / ".dvc" / "tmp", state, state / "stages", state / "code")
        if not by_hand and workspace.is_orphan(name):
            raise TerminatedError("the dvc process that started this stage has ended", "pretune run")
        entry = workspace.entry(name)  # first: later edits are found when the stage ends
        if not is_current():  # start again, in the same process
            os.execv(sys.executable, [sys.executable, "-m", "tasks", name])  # noqa: S606
        params = load(root / "params.yaml")
        if name == "finetune" and PIPE not in os.environ:  # the flow has printed it
            for line in advice(params):
                print(f"warning: {line}", file=sys.stderr)
        if name != "ingest":
            requirements.check(root / "data" / "raw", params.objectives)
        if launcher.is_distributed(workspace.node(name), params):
            launcher.WorkerGroup(root, state, workspace.node(name), entry, params).check()
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
    """Run a stage whose lock is held, publish its outputs and record it. runs: the ids that `recorded` takes."""
    with recorded(root, state, node.name, **runs) as run:
        stage = PublishedStage(root, node, entry, params=params, run=run, progress=progress)
        stage.log_inputs()
        try:
            with monitored(run, node, params):
                if launcher.is_distributed(node, params):
                    workers = launcher.WorkerGroup(root, state, node, entry, params)
                    launcher.run_on_first_machine(workers, stage, progress)
                else:
                    function(node.name)(stage)
            stage.publish()
        finally:
            stage.discard()


@contextmanager
def recorded(
    root: Path, state: Path, name: str, *, parent: str | None = None, prefect_run: str | None = None
) -> Iterator[Run]:
    """A record of the stage that ends as the block ends: FINISHED, FAILED or KILLED.

    parent: the id of the pipeline run that the stage belongs to; its process then sends the record. That of a stage in
    a temporary folder of `dvc exp` goes to the workspace which the folder was made from.
    """
    origin = experiments.origin(root)
    records = state_dir(origin) if origin else state
    # A copy of the workspace (`--set`) has no git of its own. A folder of `dvc exp` has one, with what was queued.
    home = root if origin else Path(os.environ.get(HOME) or state.parent)
    tags = provenance.tags(home) | {"pretune.kind": "stage", "pretune.status": "executed"}
    if prefect_run:
        tags["prefect.flow_run_id"] = prefect_run
    run = Run(records, name, parent=parent, tags=tags)
    if tags["git.dirty"] == "true":
        patch = provenance.patch(home)
        run.text("changes.patch", patch)
        for line in [] if parent else provenance.warnings(patch):  # the flow has printed it
            print(f"warning: {line}", file=sys.stderr)
    sender = None if parent else Sender(origin or root, records).start()
    start, status = time.monotonic(), "FAILED"
    try:
        yield run
        status = "FINISHED"
        run.metrics({"seconds": time.monotonic() - start})
    except BaseException as error:
        if stop_in(error):
            status = "KILLED"
        raise
    finally:
        run.end(status)
        facts = {"seconds": round(time.monotonic() - start, 1), "outputs": run.outputs, "metrics": run.latest}
        remember(state, name, parent=parent, run=run.id, status=status, **facts)
        if sender and (warning := sender.close([run])):
            print(f"warning: {warning}", file=sys.stderr)


@contextmanager
def monitored(run: Run, node: Node, params: Params) -> Iterator[None]:
    """Record energy and load of a stage that trains. If it runs in several processes, they record the load."""
    with ExitStack() as stack:
        if launcher.trains(node, params):
            stack.enter_context(monitoring.energy(run.metrics, params.launch.processes))
            if not launcher.is_distributed(node, params):
                stack.enter_context(monitoring.system(run.metrics))
        yield


def remember(state: Path, name: str, **facts: object) -> None:
    """Write the facts of the last run of a stage for the flow, `pretune plan` and the report."""
    path = state / "stages" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(facts))


def function(name: str) -> Callable[[Stage], None]:
    """The function of a stage: NAME in tasks/NAME.py. Raises GraphError if there is no such file."""
    try:
        stage_function: Callable[[Stage], None] = getattr(importlib.import_module(f"tasks.{name}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"tasks.{name}":
            raise
        raise GraphError(
            f"dvc.yaml has a stage {name}, but there is no tasks/{name}.py", f"write tasks/{name}.py"
        ) from None
    return stage_function


def report(root: Path | None, error: PretuneError) -> None:
    """Print an error, and write it where the flow finds it: DVC's exit code is always 255."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    if error.next_step:
        print(f"next:  {error.next_step}", file=sys.stderr)
    if os.environ.get(PIPE):
        send("error", **error.as_dict())
    if root:
        state = state_dir(root)
        with suppress(OSError):  # as when the disk is full
            state.mkdir(parents=True, exist_ok=True)
            (state / "last-error.json").write_text(json.dumps(error.as_dict()), encoding="utf-8")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
