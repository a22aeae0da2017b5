"""`pretune compare`: evaluations side by side, from the settings that differ to the metrics, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pretune.release.compare import Comparison
    from pretune.release.runs import Evaluation

PAGE = "reports/compare.html"
COSTS = {  # metrics of training stages
    "seconds": "seconds",
    "device_hours": "device hours",
    "flops": "FLOPs",
    "energy_kwh": "kWh",
    "co2_kg": "kg of CO₂",
    "parameters": "parameters",
    "system/process_memory_usage_megabytes": "MB of memory",
}
Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def compare(
    names: Annotated[list[str], typer.Argument(metavar="A [B …]", help="Run ids, @aliases or git revisions.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show evaluations side by side: settings and data that differ, metrics on the same rows, cost; also as a page."""
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release.compare import compare as side_by_side
    from pretune.release.runs import Runs

    root = find_root()
    settings = params.load(root / "params.yaml")
    runs = Runs(root, state_dir(root), settings.gate.name)
    found = {name: runs.evaluation(name) for name in dict.fromkeys(names)}
    said = {name: runs.predictions(each) for name, each in found.items()}
    options = settings.evaluate
    measured = side_by_side(
        said, bootstrap_samples=options.bootstrap_samples, confidence=options.confidence, seed=settings.seed
    )
    tables = [
        ("runs", ["", *found], facts(found)),
        ("settings that differ", ["", *found], differing({name: each.params for name, each in found.items()})),
        ("data that differ", ["", *found], differing({name: each.data for name, each in found.items()})),
        metrics(measured, list(found)),
        ("cost", ["", *found], costs(found)),
    ]
    page = root / PAGE
    page.parent.mkdir(exist_ok=True)
    page.write_text(html(tables), encoding="utf-8")
    if as_json:
        print(json.dumps(as_dict(measured, tables), default=vars))
    else:
        show(tables, page)


def facts(found: dict[str, Evaluation]) -> list[list[str]]:
    """Which runs they are and which commits they were made at."""
    rows = {
        "evaluation": [each.run.run_id[:8] for each in found.values()],
        "commit": [each.run.tags.get("git.commit", "unknown")[:8] for each in found.values()],
        "changes besides": [each.run.tags.get("git.dirty", "unknown") for each in found.values()],
        "processor": [each.run.tags.get("host.processor", "unknown") for each in found.values()],
    }
    return [[name, *values] for name, values in rows.items()]


def differing(found: dict[str, dict[str, str]]) -> list[list[str]]:
    """[name, value of each] of all that is not the same everywhere."""
    names = sorted({name for each in found.values() for name in each})
    rows = [[name, *(each.get(name, "-") for each in found.values())] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def metrics(measured: Comparison, names: list[str]) -> Table:
    """Each metric of each evaluation, and by how much each is better than the first."""
    if not measured.rows:
        return (f"metrics cannot be compared: {measured.reason}", [], [])
    first, *others = names
    head = ["", *(each for name in others for each in (name, f"better than {first} by"))]
    rows = []
    for metric, estimate in measured.scores[first].items():
        row = [metric, _told(estimate)]
        for name in others:
            gain = measured.gains[name].get(metric)
            scored = measured.scores[name].get(metric)
            row += [_told(scored) if scored else "-", f"{_told(gain, '+')}, p {gain.p:.2g}" if gain else "-"]
        rows.append(row)
    return (f"metrics on {measured.rows} rows that all have tested", ["", first, *head[1:]], rows)


def costs(found: dict[str, Evaluation]) -> list[list[str]]:
    """What the stages took."""
    rows = []
    for metric, word in COSTS.items():
        stages = {stage for each in found.values() for stage, record in each.stages.items() if metric in record.metrics}
        for stage in sorted(stages):
            records = [each.stages.get(stage) for each in found.values()]
            values = [record.metrics.get(metric) if record else None for record in records]
            rows.append([f"{stage}: {word}", *("-" if value is None else f"{value:,.4g}" for value in values)])
    return rows


def show(tables: list[Table], page: Path) -> None:
    """Print them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    for title, head, rows in tables:
        if not rows:
            console.print(title if not head else f"{title}: none", highlight=False, markup=False)
            continue
        table = RichTable(*head, title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
    console.print(f"written to {page}", highlight=False, soft_wrap=True, markup=False)


def html(tables: list[Table]) -> str:
    """The same as a page that needs nothing besides."""
    from html import escape

    from pretune.evaluation.report.html import document, table

    parts = ["<h1>Evaluations side by side</h1>"]
    for title, head, rows in tables:
        cells = [[escape(cell) for cell in row] for row in rows]
        body = table(map(escape, head), cells, numbers=range(1, len(head))) if rows else "<p>none</p>"
        parts.append(f"<h2>{escape(title)}</h2>{body}")
    return document("Pretune: comparison", "\n".join(parts))


def as_dict(measured: Comparison, tables: list[Table]) -> dict[str, Any]:
    """All of it for a program."""
    return {
        "rows": measured.rows,
        "reason": measured.reason,
        "scores": measured.scores,
        "gains": measured.gains,
        "tables": {title: [dict(zip(head, row, strict=True)) for row in rows] for title, head, rows in tables},
    }


def _told(found: Any, sign: str = "") -> str:
    return f"{found.value:{sign}.4g} ({found.low:{sign}.4g} to {found.high:{sign}.4g})"
