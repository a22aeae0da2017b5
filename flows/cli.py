"""`pretune …`: the command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import data
from flows.compare import compare
from flows.export import export
from flows.init import init, recipes
from flows.predict import predict
from flows.promote import promote, rollback
from flows.reproduce import reproduce
from flows.trace import trace
from pretune.errors import PretuneError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From raw data to an evaluated model: Prefect runs the stages, DVC versions them, MLflow records them.",
    epilog="Start with:  pretune plan,  pretune run,  pretune ui",
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def main() -> None:
    """Run a command; a user's mistake ends in a message and its exit code, never in a traceback."""
    gc.set_threshold(100_000)  # what is imported stays: to look for garbage in it takes a fifth of the time
    try:
        app()
    except PretuneError as error:
        _complain(error)
        sys.exit(error.exit_code)


@app.command(epilog="Example:  pretune run finetune --set finetune.learning_rate=3e-4 --set seed=1")
def run(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to bring up to date; default: all.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for this run; params.yaml stays as it is."),
    ] = None,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="The same stages, without a flow run.")] = False,
    promoted: Annotated[bool, typer.Option("--promote", help="Then have the gate decide about the model.")] = False,
    as_json: Json = False,
) -> None:
    """Run what is stale: the stages named, and what they need."""
    from flows import report
    from pretune.lineage import find_root

    home = find_root()
    os.chdir(home)
    console = _console(stderr=as_json)
    try:
        asked = {"stages": stages or [], "overrides": overrides or [], "promote": promoted}
        summary = _run_pipeline(home, asked, console, with_prefect=not no_prefect)
    except KeyboardInterrupt:
        print("stopped; `pretune run` goes on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    if summary["warning"]:
        console.print(f"warning: {summary['warning']}", style="yellow", markup=False)
    if as_json:
        print(json.dumps(summary))
    else:
        report.show(console, summary, overridden=overrides or [])
        print(summary["promotion"], end="\n" if summary["promotion"] else "")


@app.command(epilog="Example:  pretune plan evaluate --json")
def plan(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to plan for; default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what training costs: no step is tried.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether each stage would run, be restored or be skipped, why, and its last time; and what training costs."""
    from flows import estimates
    from flows.schedule import last_seconds
    from pretune import params
    from pretune.lineage import Workspace, state_dir

    root = _workspace(stages or [])
    params.load(root / "params.yaml")
    workspace = Workspace(root)
    workspace.check_inputs(stages or [])
    decisions = workspace.plan(stages or [])
    seconds = {d.stage: last_seconds(state_dir(root), d.stage) for d in decisions}
    say = _console(stderr=True).print
    costs = {} if quick else estimates.estimates(root, decisions, lambda text: say(text, markup=False))
    if as_json:
        facts = [{"last_seconds": seconds[d.stage], "estimate": costs.get(d.stage)} for d in decisions]
        print(json.dumps([vars(d) | each for d, each in zip(decisions, facts, strict=True)]))
        return
    from rich.table import Table

    table = Table("stage", "action", "last time", "why")
    for decision in decisions:
        last = seconds[decision.stage]
        why_not = _shorten(decision.reasons) or "nothing changed"
        table.add_row(decision.stage, decision.action, f"{last:.0f} s" if last else "", why_not)
    console = _console()
    console.print(table)
    runs = [d.stage for d in decisions if d.action == "run"]
    total = sum(seconds[name] or 0 for name in runs)
    console.print(
        f"{len(runs)} of {len(decisions)} stages to run" + (f", {total:.0f} s when they last ran" if total else ""),
        highlight=False,
    )
    if known := estimates.rows(costs):
        table = Table(*estimates.HEADINGS)
        for row in known:
            table.add_row(*row)
        console.print(table)
    for line in estimates.unknown(costs):
        console.print(line, markup=False, highlight=False)


@app.command(epilog="Example:  pretune why finetune")
def why(stage: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")], as_json: Json = False) -> None:
    """Say what changed since a stage last ran: params (old → new), data, code."""
    from pretune.lineage import Workspace

    changes = Workspace(_workspace([stage])).why(stage)
    if as_json:
        print(json.dumps(changes))
        return
    lines = [f"params  {key}: {old} → {new}" for key, (old, new) in changes["params"].items()]
    lines += [f"data    {path}: {state}" for path, state in changes["deps"].items()]
    lines += [f"code    {path}: {state}" for path, state in changes["code"].items()]
    lines += [f"output  {path}: {state}" for path, state in changes["outs"].items()]
    lines += ["command changed"] if changes["command"] else []
    print("\n".join(lines) or f"{stage}: nothing changed since it last ran")


app.add_typer(data.app, name="data", epilog="Example:  pretune data show")


@app.command(epilog="Example:  pretune doctor --fix")
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without loss.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, parameters, locks, tracking and disk; each finding comes with its fix."""
    from flows.doctor import examine
    from pretune.lineage import find_root

    findings = examine(find_root(), fix=fix)
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "fixed": "fixed  ", "problem": "PROBLEM"}[finding.state]
            print(f"{mark}  {finding.what}: {finding.detail}")
            if finding.fix and finding.state == "problem":
                print(f"         fix: {finding.fix}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(10)


@app.command(epilog="Example:  pretune ui    pretune ui --mlflow-port 5001 --prefect-port 4201")
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
) -> None:
    """Start the MLflow UI and a Prefect server on 127.0.0.1 until Ctrl-C."""
    from flows.ui import serve

    serve(_workspace([]), mlflow_port, prefect_port)


app.command(epilog="Example:  pretune trace models/finetuned    pretune trace data/raw    pretune trace 3f2a…")(trace)
app.command(epilog="Example:  pretune compare 3f2a9c41 HEAD~1    pretune compare @champion @challenger")(compare)
app.command(epilog="Example:  pretune promote    pretune promote 3f2a9c41 --json")(promote)
app.command(epilog="Example:  pretune rollback")(rollback)
app.command(epilog="Example:  pretune reproduce 3f2a9c41")(reproduce)
app.command(epilog="Example:  pretune export @champion exported --int8")(export)
app.command(
    epilog="Example:  pretune predict @champion reviews.csv --keep id    pretune predict models/finetuned < a.txt"
)(predict)
app.command(epilog="Example:  pretune recipes")(recipes)
app.command(epilog="Example:  pretune init topics --data ~/ag_news    then:  pretune run")(init)


def _workspace(stages: list[str]) -> Path:
    """The workspace, made the current folder, with the stages checked."""
    from pretune import params
    from pretune.lineage import Workspace, find_root

    root = find_root()
    os.chdir(root)
    params.read_yaml(root / "params.yaml")  # before DVC, which says less about what is wrong
    workspace = Workspace(root)
    for name in stages or list(workspace.nodes)[:1]:
        workspace.node(name)
    return root


def _run_pipeline(home: Path, asked: dict[str, Any], console: Console, *, with_prefect: bool) -> dict[str, Any]:
    if not with_prefect:
        return _without_prefect(home, **asked)
    from flows import prefect_env

    with prefect_env.api(home) as pipeline:  # a server takes seconds to start: mistakes are told meanwhile
        _check(home, asked["stages"], asked["overrides"])
        if flow := pipeline():
            return flow(**asked)
    console.print("warning: the Prefect API does not answer: running the same stages without it", style="yellow")
    return _without_prefect(home, **asked)


def _check(home: Path, stages: list[str], overrides: list[str]) -> None:
    """Tell mistakes before there is a flow run."""
    from pretune import params
    from pretune.lineage import state_dir
    from pretune.process import lock

    _workspace(stages)
    if overrides:
        params.overridden(home / "params.yaml", overrides)
    with lock(state_dir(home) / "locks" / "run.lock", "a pipeline run"):
        pass


def _without_prefect(home: Path, stages: list[str], overrides: list[str], *, promote: bool) -> dict[str, Any]:
    from contextlib import ExitStack

    from flows import board, report
    from flows.overrides import workspace_copy
    from flows.promote import decide, told
    from flows.runner import PipelineRun, run_plain

    with ExitStack() as stack:
        root = stack.enter_context(workspace_copy(home, overrides)) if overrides else home
        pipeline_run = PipelineRun(root, stages, board.choose(), home=home)
        with pipeline_run:
            run_plain(pipeline_run)
            results = pipeline_run.results()
        verdict = told(decide(home, pipeline_run.sent())) if promote else ""
        return report.summary(pipeline_run, results) | {"promotion": verdict}


def _complain(error: PretuneError) -> None:
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    if error.next_step:
        print(f"next:  {error.next_step}", file=sys.stderr)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _shorten(reasons: list[str], most: int = 3) -> str:
    more = [f"… and {len(reasons) - most} more (pretune why)"] if len(reasons) > most else []
    return "\n".join(reasons[:most] + more)


if __name__ == "__main__":
    main()
