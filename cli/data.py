"""`pretune data …`: show the data card, and compare two versions of the data."""

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

app = typer.Typer(no_args_is_help=True, help="Show the data card, or compare two versions of the data.")
ROWS = "rows.parquet"


@app.command(epilog="Example:  pretune data show")
def show(as_json: Json = False) -> None:
    """Print the data card that `prepare` wrote to reports/data."""
    from pretune.lineage.graph import find_root

    folder = find_root() / "reports" / "data"
    if not (folder / "card.md").is_file():
        raise DataError("there is no data card yet", "pretune run prepare")
    if as_json:
        print(json.dumps(json.loads((folder / "card.json").read_text(encoding="utf-8"))))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown((folder / "card.md").read_text(encoding="utf-8")))


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
    for folder in (root / "data" / "raw" if name == "." else Path(name), Path(name) / "data" / "raw"):
        if (folder / ROWS).is_file():
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
