"""`pretune data …`: show the data card, compare two versions of the data, list data in dvc.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json
from pretune.errors import DataError

app = typer.Typer(
    no_args_is_help=True, help="Show the data card, compare two versions of the data, or list data in dvc.yaml."
)
ROWS = "rows.parquet"


@app.command(epilog="Example:  pretune data show")
def show(as_json: Json = False) -> None:
    """Print the data card that `prepare` wrote to reports/data, and what finetuning will make of the rows.

    Of conversations, how many are cut, dropped, split or left out; and the first rows as the model will get them.
    """
    from cli import preview
    from pretune.config.params import load
    from pretune.lineage.graph import find_root

    root = find_root()
    folder = root / "reports" / "data"
    if not (folder / "card.md").is_file():
        raise DataError("there is no data card yet", "pretune run prepare")
    params = load(root / "params.yaml")
    first, counts = preview.rows(root, params), preview.training_rows(root, params)
    if as_json:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        print(json.dumps(card | {"training_rows": counts, "as_the_model_gets_them": first}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    screen.print(Markdown((folder / "card.md").read_text(encoding="utf-8")))
    for section, found in counts.items():
        screen.print(f"rows that {section} trains on, at {section}.sequence_length {found['sequence_length']}:")
        splits = list(dict.fromkeys(split for line in found["rows"].values() for split in line))
        table = Table("", *splits)
        for name, line in found["rows"].items():
            table.add_row(name, *(str(line.get(split, "")) for split in splits))
        screen.print(table)
        for text in found["warnings"]:
            screen.print(f"warning: {text}", style="yellow", markup=False)
    for number, row in enumerate(first, start=1):
        table = Table(title=f"training row {number}, as the model will get it", show_header=False, title_justify="left")
        for name, value in row.items():
            table.add_row(name, Text(preview.excerpt(value)))
        screen.print(table)


@app.command(epilog="Example:  pretune data declare    pretune data declare data/reviews.csv")
def declare(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Default: those in params.yaml.")] = None,
    stage: Annotated[str, typer.Option(help="The stage that reads them.")] = "ingest",
) -> None:
    """List files and folders that a stage reads in dvc.yaml, so that DVC notices when they change."""
    from cli import recipes
    from pretune.config import files, source_spec
    from pretune.lineage.graph import find_root

    root = find_root()
    if paths:
        wanted = list(source_spec.local_paths(paths, root))
    else:
        wanted = recipes.inputs(root, files.read_yaml(root / "params.yaml")).get(stage, [])
    added = recipes.declare(root, stage, wanted)
    for path in added:
        print(f"dvc.yaml lists {path} under stages.{stage}.deps")
    if not added:
        print(f"dvc.yaml lists all that {stage} reads already")


@app.command(epilog="Example:  pretune data diff HEAD~1 .    pretune data diff data/raw ../other/data/raw")
def diff(
    old: Annotated[
        str, typer.Argument(metavar="A", help="A folder with a snapshot, a commit, or . for the workspace.")
    ],
    new: Annotated[str, typer.Argument(metavar="B", help="As A.")],
    as_json: Json = False,
) -> None:
    """Count the rows that were added, removed and relabelled from A to B."""
    from pretune.data.prepare import card
    from pretune.lineage.graph import find_root

    root = find_root()
    with tempfile.TemporaryDirectory() as folder:
        difference = card.difference(_rows(root, old, Path(folder) / "a"), _rows(root, new, Path(folder) / "b"))
    print(json.dumps(difference) if as_json else _as_text(difference))


def _as_text(difference: dict[str, Any]) -> str:
    lines = [f"rows        {difference['rows'][0]} → {difference['rows'][1]}"]
    lines += [f"{name:<11} {difference[name]}" for name in ("added", "removed")]
    relabelled = [f"relabelled  {count}  {change}" for change, count in difference["relabelled"].items()]
    lines += relabelled or ["relabelled  0"]
    return "\n".join(lines)


def _rows(root: Path, name: str, target: Path) -> Path:
    """The rows of a snapshot: in a folder, in the workspace, or of a commit, fetched from DVC's cache to `target`."""
    from pretune.data import rows

    for folder in (root / "data" / "raw" if name == "." else Path(name), Path(name) / "data" / "raw"):
        if rows.exist(folder / ROWS):
            return folder / ROWS
    command = [sys.executable, "-m", "dvc", "get", str(root), f"data/raw/{ROWS}", "--rev", name, "--out", str(target)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["unknown"])[0].removeprefix("ERROR: ")
        raise DataError(
            f"{name} is neither a folder with {ROWS} nor a commit whose data/raw is in DVC's cache ({reason})",
            "dvc pull   (if a remote has it), or name a folder",
        )
    return target
