"""`pretune compare`: evaluations side by side: settings and data that differ, metrics on the same rows, cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pretune.evaluation.metrics.bootstrap import Estimate
    from pretune.pages.render import Table
    from pretune.release.compare import Comparison
    from pretune.release.runs import Evaluation

PAGE = "reports/compare.html"
TEMPLATE = Path(__file__).with_name("comparison.html.j2")


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="A [B …]", help="Run ids, @aliases, git revisions; `.` is the working tree.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown instead, for a pull request.")
    ] = False,
) -> None:
    """Show evaluations side by side: settings and data that differ, metrics on the same rows, cost; also as a page."""
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.pages.render import Table, render
    from pretune.release.compare import compare as side_by_side
    from pretune.release.runs import Runs

    root = find_root()
    settings = params.load(root / "params.yaml")
    runs = Runs(root, state_dir(root), settings.gate.name)
    evaluations = {name: runs.evaluation(name) for name in dict.fromkeys(names)}
    comparison = side_by_side(
        {name: runs.predictions(evaluation) for name, evaluation in evaluations.items()},
        bootstrap_samples=settings.evaluate.bootstrap_samples,
        confidence=settings.evaluate.confidence,
        seed=settings.seed,
    )
    head = ["", *evaluations]
    used_settings = {name: evaluation.params for name, evaluation in evaluations.items()}
    used_data = {name: evaluation.data for name, evaluation in evaluations.items()}
    tables = [
        Table("runs", head, facts(evaluations), len(head)),
        Table("settings that differ", head, differing(used_settings), len(head)),
        Table("data that differ", head, differing(used_data), len(head)),
        metrics(comparison, list(evaluations)),
        Table("better than the models that each was compared with, by", head, gains(evaluations)),
        Table("benchmarks", head, benchmarks(evaluations)),
        Table("cost", head, costs(evaluations)),
    ]
    page = root / PAGE
    page.parent.mkdir(exist_ok=True)
    page.write_text(render(TEMPLATE, tables=tables), encoding="utf-8")
    if as_json:
        print(json.dumps(as_dict(comparison, tables), default=vars))
    elif as_markdown:
        print(markdown(tables))
    else:
        show(tables, page)


def facts(evaluations: dict[str, Evaluation]) -> list[list[str]]:
    """The run, the commit and the machine of each evaluation."""
    runs = [evaluation.run for evaluation in evaluations.values()]
    rows = {
        "evaluation": [run.run_id[:8] for run in runs],
        "commit": [run.tags.get("git.commit", "unknown")[:8] for run in runs],
        "uncommitted changes": [run.tags.get("git.dirty", "unknown") for run in runs],
        "processor": [run.tags.get("host.processor", "unknown") for run in runs],
    }
    return [[name, *values] for name, values in rows.items()]


def differing(by_evaluation: dict[str, dict[str, str]]) -> list[list[str]]:
    """A row of values for each name whose value is not the same in all evaluations."""
    names = sorted({name for values in by_evaluation.values() for name in values})
    rows = [[name, *(values.get(name, "-") for values in by_evaluation.values())] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def metrics(comparison: Comparison, names: list[str]) -> Table:
    """Each metric of each evaluation, and by how much each is better than the first one."""
    from pretune.pages.render import Table

    if not comparison.rows:
        return Table(f"metrics cannot be compared: {comparison.reason}", [], [])
    first, *others = names
    head = ["", first, *(cell for name in others for cell in (name, f"better than {first} by"))]
    rows = []
    for metric, estimate in comparison.scores[first].items():
        row = [metric, _interval(estimate)]
        for name in others:
            score, gain = comparison.scores[name].get(metric), comparison.gains[name].get(metric)
            row.append(_interval(score) if score else "-")
            row.append(f"{_interval(gain, sign=True)}, p {gain.p:.2g}" if gain else "-")
        rows.append(row)
    return Table(f"metrics on {comparison.rows} rows that all have tested", head, rows)


def gains(evaluations: dict[str, Evaluation]) -> list[list[str]]:
    """By how much each evaluated model is better than the others of its evaluation, in its headline, on its rows."""
    from pretune.evaluation import names
    from pretune.pages.units import interval

    measured = [evaluation.run.metrics for evaluation in evaluations.values()]
    keys = {key for metrics in measured for key in metrics if key.startswith("gain.") and key.count(".") == 1}
    models = names.in_order(sorted(key.removeprefix("gain.") for key in keys))
    return [
        [
            names.describe(model),
            *(
                interval(*(metrics[f"gain.{model}{end}"] for end in ("", ".low", ".high")), sign=True)
                if f"gain.{model}" in metrics
                else "-"
                for metrics in measured
            ),
        ]
        for model in models
    ]


def benchmarks(evaluations: dict[str, Evaluation]) -> list[list[str]]:
    """The estimate of each evaluated model in each benchmark."""
    from pretune.pages.units import interval

    rows: dict[str, dict[str, str]] = {}
    for name, evaluation in evaluations.items():
        measured, end = evaluation.run.metrics, f".{evaluation.evaluated}"
        for key in (key for key in measured if key.startswith("benchmarks.") and key.endswith(end)):
            benchmark = key.removeprefix("benchmarks.").removesuffix(end)
            rows.setdefault(benchmark, {})[name] = interval(
                *(measured[f"{key}{part}"] for part in ("", ".low", ".high"))
            )
    return [[key, *(values.get(name, "-") for name in evaluations)] for key, values in rows.items()]


def costs(evaluations: dict[str, Evaluation]) -> list[list[str]]:
    """What each training stage cost."""
    from pretune.evaluation.names import COSTS

    by_evaluation = [evaluation.stages for evaluation in evaluations.values()]
    rows = []
    for metric, words in COSTS.items():
        names = {name for stages in by_evaluation for name, record in stages.items() if metric in record.metrics}
        for name in sorted(names):
            records = [stages.get(name) for stages in by_evaluation]
            values = [record.metrics.get(metric) if record else None for record in records]
            rows.append([f"{name}: {words}", *("-" if value is None else f"{value:,.4g}" for value in values)])
    return rows


def show(tables: list[Table], page: Path) -> None:
    """Print the tables, and where the page is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    for table in tables:
        if not table.body:
            title = f"{table.title}: none" if table.head else table.title
            console.print(title, highlight=False, markup=False)
            continue
        printed = RichTable(*table.head, title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
        for row in table.body:
            printed.add_row(*row)
        console.print(printed, markup=False)
    console.print(f"written to {page}", highlight=False, soft_wrap=True, markup=False)


def markdown(tables: list[Table]) -> str:
    """The tables, below one heading; those without rows are left out unless their title says why."""
    from pretune.studies.markdown import table_markdown, text_markdown

    parts = ["## pretune compare"]
    for table in tables:
        if table.body:
            parts += [f"**{text_markdown(table.title)}**", table_markdown(table).rstrip()]
        elif not table.head:
            parts.append(text_markdown(table.title))
    return "\n\n".join(parts)


def as_dict(comparison: Comparison, tables: list[Table]) -> dict[str, Any]:
    """The comparison for `--json`."""
    return {
        "rows": comparison.rows,
        "reason": comparison.reason,
        "scores": comparison.scores,
        "gains": comparison.gains,
        "tables": {table.title: [dict(zip(table.head, row, strict=True)) for row in table.body] for table in tables},
    }


def _interval(estimate: Estimate, *, sign: bool = False) -> str:
    from pretune.pages.units import interval

    return interval(estimate.value, estimate.low, estimate.high, sign=sign)
