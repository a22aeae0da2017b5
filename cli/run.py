"""`pretune run`: bring stages up to date, then show the results."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, console, open_workspace

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console


def run(  # noqa: PLR0917 - options of a command
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to bring up to date; default: all.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Use another value for this run; params.yaml is not changed."),
    ] = None,
    no_prefect: Annotated[bool, typer.Option("--no-prefect", help="Run the stages without Prefect.")] = False,
    pull: Annotated[
        bool, typer.Option("--pull", help="First fetch from the DVC remote what others have computed already.")
    ] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Then promote the model if it passes the gate.")] = False,
    as_json: Json = False,
) -> None:
    """Run the named stages, and those they depend on, if they are out of date."""
    from pretune.lineage.graph import find_root

    home = find_root()
    os.chdir(home)
    screen = console(stderr=as_json)
    request: dict[str, Any] = {"stages": stages or [], "overrides": overrides or [], "promote": promote, "pull": pull}
    try:
        result = _without_prefect(home, **request) if no_prefect else _with_prefect(home, request, screen)
    except KeyboardInterrupt:
        print("stopped; `pretune run` continues where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    if result["warning"]:
        screen.print(f"warning: {result['warning']}", style="yellow", markup=False)
    if as_json:
        print(json.dumps(result))
    else:
        show(screen, result, overridden=bool(overrides))
        print(result["promotion"], end="\n" if result["promotion"] else "")


def _with_prefect(home: Path, request: dict[str, Any], screen: Console) -> dict[str, Any]:
    from flows import prefect_server

    with prefect_server.api(home) as load_flow:  # while the server starts, which takes seconds
        _check(home, request["stages"], request["overrides"])
        if flow := load_flow():
            return flow(**request)
    screen.print("warning: the Prefect API does not answer: running the same stages without it", style="yellow")
    return _without_prefect(home, **request)


def _check(home: Path, stages: list[str], overrides: list[str]) -> None:
    """Raise the errors that can be found before a flow run starts."""
    from pretune.config.overrides import overridden
    from pretune.lineage.graph import state_dir
    from pretune.process import lock

    open_workspace(stages)
    if overrides:
        overridden(home / "params.yaml", overrides)
    with lock(state_dir(home) / "locks" / "run.lock", "a pipeline run"):
        pass


def _without_prefect(
    home: Path, stages: list[str], overrides: list[str], *, promote: bool, pull: bool
) -> dict[str, Any]:
    from contextlib import ExitStack

    from flows import events, summary
    from flows.overrides import workspace_copy
    from flows.runner import PipelineRun, run_plain
    from pretune.runtime import progress

    with ExitStack() as stack:
        root = stack.enter_context(workspace_copy(home, overrides)) if overrides else home
        run = PipelineRun(root, stages, progress.for_run(), home=home, pull=pull)
        with run:
            run_plain(run)
            results = run.results()
        verdict = str(events.promote(home, run.wait_until_sent())) if promote else ""
        return summary.as_dict(run.record.id, run.outcomes.values(), results, run.warning) | {"promotion": verdict}


def show(screen: Console, result: dict[str, Any], *, overridden: bool) -> None:
    """Print the table of models and useful next commands."""
    from rich.table import Table

    from flows import summary

    results = result["results"]
    if rows := summary.rows(results):
        percent = f"{100 * results['confidence']:.0f} % interval"
        table = Table(title=f"{results['test_rows']} test rows, {results['train_rows']} labelled for training")
        first, *others = summary.heads(results)
        for heading in ("model", first, percent, *others):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        for row in rows:
            table.add_row(*row)
        screen.print(table)
        lines = [
            *summary.wins(results),
            *summary.forgetting(results),
            *summary.benchmarks(results),
            summary.labels(results),
        ]
        for line in filter(None, [*summary.gains(results), *lines]):
            screen.print(line, highlight=False)
    screen.print("\nwhere to look next:", highlight=False)
    for command, purpose in _next_commands(result["stages"], overridden=overridden):
        screen.print(f"  {command:<34} {purpose}", highlight=False, markup=False, soft_wrap=True)


def _next_commands(stages: Collection[str], *, overridden: bool) -> list[tuple[str, str]]:
    """Commands and their purpose; those about a report or a model only if the run made one."""
    by_stage = {
        "evaluate": ("reports/report.html", "opens in a browser: curves, slices, mistakes"),
        "prepare": ("pretune data show", "rows kept and left out, splits, samples of the data"),
        "finetune": ("pretune trace models/finetuned", "which data, parameters and commit made the model"),
    }
    keep = (
        ("edit params.yaml as in --set", "to keep this result: `pretune run` then restores it from the cache")
        if overridden
        else ("git add dvc.lock && git commit", "to keep this result: dvc.lock names every input and output")
    )
    return [
        *(by_stage[stage] for stage in by_stage if stage in stages),
        ("pretune ui", "compare runs in MLflow, look at flow runs in Prefect"),
        ("pretune run --set seed=1", "the same with another seed, params.yaml untouched"),
        keep,
    ]
