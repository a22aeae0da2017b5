"""`pretune data …`: what the data are, and how two versions of them differ."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pretune.errors import DataError

app = typer.Typer(no_args_is_help=True, help="What the data are, and how two versions of them differ.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
ROWS = "rows.parquet"


@app.command(epilog="Example:  pretune data show")
def show(as_json: Json = False) -> None:
    """Print the data card that `prepare` has left in reports/data."""
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
    new: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    as_json: Json = False,
) -> None:
    """Count the rows that were added, removed and relabelled from A to B."""
    from pretune.data.prepare import card
    from pretune.lineage.graph import find_root

    root = find_root()
    with tempfile.TemporaryDirectory() as folder:
        found = card.difference(*(_rows(root, name, Path(folder) / side) for name, side in ((old, "a"), (new, "b"))))
    print(json.dumps(found) if as_json else _told(found))


def _told(found: dict[str, Any]) -> str:
    lines = [f"rows        {found['rows'][0]} → {found['rows'][1]}"]
    lines += [f"{name:<11} {found[name]}" for name in ("added", "removed")]
    lines += [f"relabelled  {count}  {change}" for change, count in found["relabelled"].items()] or ["relabelled  0"]
    return "\n".join(lines)


def _rows(root: Path, name: str, target: Path) -> Path:
    """The rows of a snapshot: in a folder, in the workspace, or of a commit, whose dvc.lock leads to DVC's cache."""
    for folder in (root / "data" / "raw" if name == "." else Path(name), Path(name) / "data" / "raw"):
        if (folder / ROWS).is_file():
            return folder / ROWS
    command = [sys.executable, "-m", "dvc", "get", str(root), f"data/raw/{ROWS}", "--rev", name, "--out", str(target)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["unknown"])[0].removeprefix("ERROR: ")
        raise DataError(
            f"{name} is neither a folder with {ROWS} nor a commit whose data/raw is in DVC's cache ({reason})",
            "dvc pull   (where a remote has it), or name a folder",
        )
    return target
