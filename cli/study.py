"""`pretune study`: ready experiments, each of which answers a question that every team asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, console, open_workspace

STUDIES = {  # what each answers
    "learning-rate": "which rate, for each training",
    "size": "is a larger model better here",
    "adaptation": "must all parameters be tuned",
    "labels": "how many labels are needed, what do more bring",
    "data": "does more or other unlabelled text help",
    "seeds": "how much is luck, and what this test set can show",
}
LIST = "\n\n".join(f"{name}: {question}" for name, question in STUDIES.items())


def study(  # noqa: PLR0917 - options of a command
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(STUDIES)}.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Use another value in all runs; params.yaml is not changed."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Runs of each point; more: smaller intervals.")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Start no run after this time: 30m, 2h.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", help="Of `data`: KEY=VALUES to compare instead of shares; of `seeds`: pretrain or finetune."
        ),
    ] = None,
    target: Annotated[float | None, typer.Option("--target", help="Of `labels`: the quality to reach.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the page as Markdown into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with one; what has run already is not run again. Ends in a plain sentence and a page."""
    import importlib

    from cli.sweep import minutes_of
    from flows.studies import study as studies
    from pretune.errors import ParamsError, did_you_mean

    if name not in STUDIES:
        raise ParamsError(
            f"no study `{name}`{did_you_mean(name, STUDIES)}; there are: {', '.join(STUDIES)}", "pretune study --help"
        )
    home = open_workspace([])
    options = {key: value for key, value in {"vary": vary, "target": target}.items() if value is not None}
    _check_options(name, options)
    started = studies.Study(home, name, overridden=overrides or [], seeds=seeds, minutes=minutes_of(budget))
    module = importlib.import_module(f"flows.studies.{name.replace('-', '_')}")
    try:
        result = module.run(started, **options)
    except KeyboardInterrupt:
        print(f"stopped; `{started.command()}` goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    path = studies.write(started, result)
    screen = console(stderr=as_json)
    if started.warning:
        screen.print(f"warning: {started.warning}", style="yellow", markup=False)
    if markdown:
        path = studies.write_markdown(result, name, markdown)
    if as_json:
        print(json.dumps({"study": name, "answer": result.answer, "report": str(path), **result.data}))
        return
    screen.print(f"{result.question}\n{result.answer}\n", highlight=False, markup=False)
    screen.print(f"{path}", highlight=False, markup=False)


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Raise ParamsError for options that this study does not have."""
    from pretune.errors import ParamsError

    known = {"data": {"vary"}, "seeds": {"vary"}, "labels": {"target"}}.get(name, set())
    if unknown := [f"--{option}" for option in options if option not in known]:
        raise ParamsError(f"the study {name} has no {', '.join(unknown)}", "pretune study --help")
