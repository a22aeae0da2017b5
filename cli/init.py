"""`pretune recipes` and `pretune init`: params.yaml from one's own data, or from a recipe."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cli.options import Json, console
from pretune.errors import NotFoundInRecordsError, ParamsError, did_you_mean

if TYPE_CHECKING:
    from cli.proposal.propose import Proposal

DOUBTS = 5  # that are shown
ROLES = ("system", "history", "user", "assistant")  # of `messages`
Files = Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, folders, globs, hub:NAME, or a recipe.")]


def recipes(as_json: Json = False) -> None:
    """List complete params files for known data sets and models, with their data, time and expected results."""
    from cli.recipes import every
    from pretune.lineage.graph import find_root

    known = every(find_root())
    if as_json:
        print(json.dumps([recipe.facts() for recipe in known]))
        return
    for recipe in known:
        print(f"{recipe.name}: {recipe.title}")
        for key in ("model", "data", "time", "expect"):
            print(f"    {key + ':':8}{getattr(recipe, key)}")


def init(  # noqa: PLR0917 - typer passes them by name
    data_files: Files,
    test: Annotated[list[str] | None, typer.Option(help="A file or folder of test rows.")] = None,
    validation: Annotated[list[str] | None, typer.Option(help="A file or folder of validation rows.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Texts for pretraining only.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Say which column is what: text=body.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What to learn (docs/models.md); default: what is found.")
    ] = None,
    budget: Annotated[float, typer.Option(min=0.1, help="Minutes that training may take.")] = 2.0,
    yes: Annotated[bool, typer.Option("--yes", help="Write at once.")] = False,
    data: Annotated[Path | None, typer.Option(help="For a recipe: a folder to copy missing data from.")] = None,
    model: Annotated[str | None, typer.Option(help="A checkpoint to start from, a folder or NAME@REVISION.")] = None,
    as_json: Json = False,
) -> None:
    """Look at data and propose the whole of params.yaml, or take a recipe; the old files are kept."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from cli import checkpoint
    from cli.proposal.inspection import Request
    from cli.proposal.propose import propose
    from pretune.lineage.graph import find_root

    root = find_root()
    if len(data_files) == 1 and _is_recipe(root, data_files[0]):
        _recipe(root, data_files[0], data, model, as_json=as_json)
        return
    others = [("test", test), ("validation", validation), ("corpus", corpus)]
    given = [(split, name) for split, names in others for name in names or []]
    first = "train" if any(split in {"test", "validation", "corpus"} for split, _ in given) else None
    named = [(first, name) for name in data_files] + given
    init = model and checkpoint.place(root, Path.cwd(), model)
    request = Request(named, parse_columns(column or []), objective, budget, init)
    console(stderr=True).print("looking at the data, and timing some steps of training …", highlight=False)
    found = propose(root, Path.cwd(), request)
    if not as_json:
        show(found)
    if not (yes or _confirmed(as_json=as_json)):
        if as_json:
            print(json.dumps(found.as_dict() | {"written": False}, ensure_ascii=False))
        else:
            print(f"nothing is written; to write it: {_command()} --yes")
        return
    _write(root, found, Path(data_files[0]).stem, as_json=as_json)


def _command() -> str:
    """The command line as it was typed."""
    import shlex

    return shlex.join(["pretune", *sys.argv[1:]])


def _is_recipe(root: Path, name: str) -> bool:
    """Whether this names a recipe and no path. Raises NotFoundInRecordsError where it is neither."""
    from cli.recipes import every

    if Path(name).expanduser().exists() or any(sign in name for sign in "/:*?["):
        return False
    known = [recipe.name for recipe in every(root)]
    if name not in known and "." not in name and name not in {"pydocs", "digits"}:
        raise NotFoundInRecordsError(
            f"no file or folder {name}, and no recipe{did_you_mean(name, known)}; there are: {', '.join(known)}",
            "pretune recipes",
        )
    return name in known


def _recipe(root: Path, name: str, data: Path | None, model: str | None, *, as_json: bool) -> None:
    from cli import checkpoint
    from cli import recipes as all_recipes

    done = all_recipes.init(root, name, data, model and checkpoint.place(root, Path.cwd(), model))
    if as_json:
        print(json.dumps(vars(done)))
        return
    print(f"params.yaml is now the recipe {name}, and dvc.yaml lists its data; the old files are in {done.kept}")
    for path in done.brought:
        print(f"copied   {path}")
    for path in done.missing:
        print(f"missing  {path}: put it there, or: pretune init {name} --data FOLDER")
    print("next:    pretune run")


def parse_columns(assignments: list[str]) -> dict[str, Any]:
    """{ours: theirs} of `--column ours=theirs[,theirs]`; `user=…` is a part of messages."""
    from pretune.config.data import FIELDS, SEVERAL, Column

    columns: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        ours, equals, text = assignment.partition("=")
        theirs = [name.strip() for name in text.split(",") if name.strip()]
        ours, _, part = f"messages.{ours}".partition(".") if ours in ROLES else ours.partition(".")
        if not (equals and theirs):
            problems.append(f"--column {assignment}: write it as text=body")
        elif ours not in get_args(Column):
            problems.append(f"--column {assignment}: we have no column {ours}{did_you_mean(ours, get_args(Column))}")
        elif part and part not in FIELDS.get(ours, ()):
            problems.append(f"--column {assignment}: {ours} has no part {part}")
        elif part:
            columns.setdefault(ours, {})[part] = theirs if len(theirs) > 1 else theirs[0]
        elif len(theirs) > 1 and ours not in SEVERAL:
            problems.append(f"--column {assignment}: {ours} is one column")
        else:
            columns[ours] = theirs if len(theirs) > 1 or ours in {"x", "y"} else theirs[0]
    if problems:
        raise ParamsError(problems, f"our columns are: {', '.join(get_args(Column))}")
    return columns


def show(found: Proposal) -> None:
    """Print what was seen, what is not sure, and hints."""
    from rich.table import Table

    screen = console()
    table = Table("", "found", "why", box=None, pad_edge=False)
    for line in found.lines:
        table.add_row(*(_plain(cell) for cell in line))
    screen.print(table)
    if found.doubts:
        screen.print("\nnot sure:", highlight=False)
    for what, option in found.doubts[:DOUBTS]:
        screen.print(_plain(f"  {what}"), soft_wrap=True)
        screen.print(_plain(f"      {option}"), soft_wrap=True)
    if len(found.doubts) > DOUBTS:
        screen.print(f"  and {len(found.doubts) - DOUBTS} more (--json)", highlight=False)
    for hint in found.hints:
        screen.print(_plain(f"hint: {hint}"), soft_wrap=True)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "\ufffd" for character in text))


def _confirmed(*, as_json: bool) -> bool:
    """Ask on a terminal; without one, no."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm("write params.yaml?", default=True)


def _write(root: Path, found: Proposal, name: str, *, as_json: bool) -> None:
    from cli import recipes as all_recipes

    kept = all_recipes.install(root, found.text, "".join(c if c.isalnum() else "-" for c in name) or "data")
    if as_json:
        print(json.dumps(found.as_dict() | {"written": True, "kept": kept}, ensure_ascii=False))
        return
    print(f"params.yaml is written, and dvc.yaml lists the data; the old files are in {kept}")
    print("next:    pretune run")
