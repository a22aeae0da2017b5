"""`pretune recipes` and `pretune init`: list complete params files, and make one the workspace's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


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


def init(
    recipe: Annotated[str, typer.Argument(help="A name that `pretune recipes` lists.")],
    data: Annotated[Path | None, typer.Option(help="A folder to copy missing data from.")] = None,
    as_json: Json = False,
) -> None:
    """Replace params.yaml by a recipe; the old file is kept."""
    from cli import recipes as all_recipes
    from pretune.lineage.graph import find_root

    done = all_recipes.init(find_root(), recipe, data)
    if as_json:
        print(json.dumps(vars(done)))
        return
    print(f"params.yaml is now the recipe {recipe}, and dvc.yaml lists its data; the old files are in {done.kept}")
    for path in done.brought:
        print(f"copied   {path}")
    for path in done.missing:
        print(f"missing  {path}: put it there, or: pretune init {recipe} --data FOLDER")
    print("next:    pretune run")
