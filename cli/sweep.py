"""`pretune sweep`: try many values, and say which are better and which differences are noise."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from cli.options import Json, console

if TYPE_CHECKING:
    from rich.console import Console

    from flows.sweep.folder import SweepFolder
    from flows.sweep.report import SweepView
    from pretune.studies.results import TrialResult

MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0, "d": 1440.0}
SHOWN = 20  # trials in the table of the terminal
EXAMPLES = (
    "Examples:\n\npretune sweep finetune.learning_rate=log:1e-5..1e-3 adaptation.method=full,lora,head --trials 24"
    " --seeds 3\n\npretune sweep adaptation.method=full,lora"
    " 'adaptation.settings.r=int:4..64 if adaptation.method=lora' --trials 20 --pruner median"
    "\n\npretune sweep --file sweeps/size.yaml --budget 30m"
    "\n\npretune sweep show NAME    pretune sweep resume NAME    pretune sweep apply NAME"
)


class DefaultsToRun(TyperGroup):
    """`pretune sweep KEY=VALUES …` is `pretune sweep run KEY=VALUES …`."""

    default_command = "run"

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultsToRun, no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    help="Try many values, side by side and without doing the same work twice; say which are better.",
)  # fmt: skip


@app.command(epilog=EXAMPLES)
def run(  # noqa: PLR0917 - options of a command
    space: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUES…",
            help="What to vary: 1,2,3 · 1e-5..1e-3 · log:1e-5..1e-3 · int:2..8 · with /5 as five points · and, at the "
            "end, `if OTHER=VALUE`.",
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A YAML file with the keys `space`, `trials`, …")] = None,
    constraint: Annotated[
        list[str] | None, typer.Option("--constraint", help="What must hold: 'finetune.batch_size * 2 <= 64'.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Of the validation rows; default: the headline. `loss`, `pretrain.loss`; a second one, say seconds, "
            "for a trade-off.",
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="grid, random, tpe, nsga2; default: grid for lists, else tpe.")
    ] = None,
    pruner: Annotated[str | None, typer.Option("--pruner", help="Stop trials that are worse: median, halving.")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Points to try; default: all of a grid.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs of each point, with different seeds.")] = None,
    search_seed: Annotated[int | None, typer.Option("--search-seed", help="Seed of the search; default: 0.")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Runs at once; default: as cores, GPUs and memory allow.")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Start no run after this time: 30m, 2h.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the sweep; default: from what is varied.")] = None,
    as_json: Json = False,
) -> None:
    """Try values, judge them on the validation rows, and look at the test rows once, for the best."""
    from flows.sweep.folder import SweepFolder
    from pretune.studies import settings
    from pretune.studies import space as spaces

    home = _open()
    content = _from_file(file) if file else {}
    parsed = spaces.parse(space, constraint or []) if space else spaces.from_file(content)
    if space:
        content["space"] = dict(assignment.split("=", 1) for assignment in space)
    minutes = minutes_of(budget)
    given = {
        "constraints": constraint or None, "metric": metric or None, "sampler": sampler, "pruner": pruner,
        "trials": trials, "seeds": seeds, "search_seed": search_seed, "parallel": parallel, "name": name,
    }  # fmt: skip
    content |= {key: value for key, value in given.items() if value is not None}
    if isinstance(content.get("metric"), str):
        content["metric"] = [content["metric"]]
    from pretune.config import params
    from pretune.release.last_model import last_model

    last = last_model(home)
    content["last"] = last.stage
    content.setdefault("metric", [settings.default_metric(last.params(params.load(home / "params.yaml")).objective)])
    finite = parsed.is_finite and (content.get("trials") is None or content["trials"] >= len(parsed.grid()))
    content.setdefault("sampler", "grid" if finite else "nsga2" if len(content["metric"]) > 1 else "tpe")
    content.setdefault("name", file.stem if file else _name(parsed.keys))
    asked = settings.validate(content)
    if asked.sampler == "grid":
        parsed.grid()  # raises for ranges without points
    spaces.check(parsed, home / "params.yaml")
    _perform(SweepFolder.create(home, asked), minutes, as_json=as_json)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Of the sweep.")],
    budget: Annotated[str | None, typer.Option("--budget", help="Start no run after this time: 30m, 2h.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was stopped or killed; what is done is not done again."""
    from flows.sweep.folder import SweepFolder

    _perform(SweepFolder.open(_open(), name), minutes_of(budget), as_json=as_json)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="Of the sweep; default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Show the trials of a sweep, the best first, also while it is running, and write its page."""
    from flows.sweep import report
    from flows.sweep.folder import SweepFolder
    from pretune.errors import NotFoundInRecordsError

    home = _open()
    names = SweepFolder.names(home)
    if name is None and not names:
        raise NotFoundInRecordsError("there is no sweep yet", "pretune sweep --help")
    seen = report.view(SweepFolder.open(home, name or names[-1]))
    report.write(seen)
    if as_json:
        print(json.dumps(report.as_dict(seen)))
    else:
        _print(console(), seen)


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="Of the sweep.")],
    trial: Annotated[int | None, typer.Option("--trial", help="Another one than the best.")] = None,
    experiment: Annotated[
        bool, typer.Option("--experiment", help="Keep it as an experiment of DVC; params.yaml stays as it is.")
    ] = False,
) -> None:
    """Write the values of the best trial into params.yaml: `pretune run` then restores its model from the cache."""
    from flows.sweep.apply import keep_as_experiment, write_params
    from flows.sweep.folder import SweepFolder

    folder = SweepFolder.open(_open(), name)
    if experiment:
        reference = keep_as_experiment(folder, trial)
        print(f"kept as the experiment {reference}\nnext:  dvc exp show    dvc exp apply {reference}")
        return
    for key, (old, new) in write_params(folder, trial).items():
        print(f"{key}: {old} → {new}")
    print("next:  pretune run")


def _open() -> Path:
    from cli.options import open_workspace

    return open_workspace([])


def _perform(folder: SweepFolder, minutes: float | None, *, as_json: bool) -> None:
    from flows.sweep import report
    from flows.sweep.sweep import Sweep

    sweep = Sweep(folder, minutes=minutes if minutes is not None else folder.settings.budget)
    try:
        done = sweep.run()
    except KeyboardInterrupt:
        print(f"stopped; `pretune sweep resume {folder.name}` goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    seen = report.view(folder)
    screen = console(stderr=as_json)
    if sweep.warning:
        screen.print(f"warning: {sweep.warning}", style="yellow", markup=False)
    if as_json:
        print(json.dumps(report.as_dict(seen) | {"done": done}))
        return
    _print(screen, seen)
    if not done:
        screen.print(f"the time is up; `pretune sweep resume {folder.name}` goes on", highlight=False)


def _print(screen: Console, seen: SweepView) -> None:
    """The table of trials, the verdict, and useful next commands."""
    from rich.table import Table

    from flows.sweep.report import FOLDER
    from pretune.studies.verdict import describe

    table = Table("trial", "values", seen.metric, "interval", "seeds", "seconds", "", title=f"sweep {seen.folder.name}")
    by_number = {trial.number: trial for trial in seen.trials}
    order = [*seen.ranking, *(number for number in by_number if number not in seen.ranking)]
    for number in order[:SHOWN]:
        trial, estimate = by_number[number], seen.estimates.get(number)
        known = estimate is not None and estimate.low == estimate.low  # not NaN
        seconds = trial.cost("seconds")
        table.add_row(
            str(number), describe(trial.point), f"{estimate.value:.4g}" if estimate else "",
            f"{estimate.low:.4g} - {estimate.high:.4g}" if estimate and known else "", str(len(trial.seeds)),
            f"{seconds:.1f}" if seconds is not None else "", _note(trial),
        )  # fmt: skip
    screen.print(table)
    if len(order) > SHOWN:
        screen.print(f"… and {len(order) - SHOWN} more in the page", highlight=False)
    for sentence in seen.sentences:
        screen.print(sentence, highlight=False, markup=False)
    screen.print("\nwhere to look next:", highlight=False)
    name = seen.folder.name
    for command, purpose in (
        (f"{FOLDER}/{name}.html", "opens in a browser: history, parallel coordinates, importance, curves"),
        (f"pretune sweep apply {name}", "write the best values into params.yaml, for `pretune run`"),
        ("pretune ui", "compare the trials in MLflow"),
    ):
        screen.print(f"  {command:<40} {purpose}", highlight=False, markup=False, soft_wrap=True)


def _note(trial: TrialResult) -> str:
    """Why a trial is not complete."""
    return "" if trial.state == "complete" else trial.note or trial.state


def _from_file(path: Path) -> dict[str, Any]:
    from pretune.config.files import read_yaml

    content = read_yaml(path)
    if isinstance(content.get("budget"), str):
        content["budget"] = minutes_of(content["budget"])
    return content


def minutes_of(text: str | None) -> float | None:
    """Minutes of `30m`, `2h`, `90s` or `1d`; None for None."""
    from pretune.errors import ParamsError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not match:
        raise ParamsError(f"--budget {text}: write it as 30m, 2h or 1d", "pretune sweep run --help")
    return float(match[1]) * MINUTES[match[2] or "m"]


def _name(keys: tuple[str, ...]) -> str:
    """A name from what is varied: `learning_rate-method`."""
    return "-".join(dict.fromkeys(key.rpartition(".")[2] for key in keys))[:60]
