"""`pretune recipes` and `pretune init`: complete params files, and how one becomes the workspace's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def recipes(as_json: Json = False) -> None:
    """List complete params files for known data and models: what each does, needs and leads to."""
    from cli.recipes import every
    from pretune.lineage.graph import find_root

    found = every(find_root())
    if as_json:
        print(json.dumps([recipe.facts() for recipe in found]))
        return
    for recipe in found:
        print(f"{recipe.name}: {recipe.title}")
        for key in ("model", "data", "time", "expect"):
            print(f"    {key + ':':8}{getattr(recipe, key)}")


def init(
    recipe: Annotated[str, typer.Argument(help="A name that `pretune recipes` lists.")],
    data: Annotated[Path | None, typer.Option(help="A folder to copy the data from, where they are missing.")] = None,
    as_json: Json = False,
) -> None:
    """Make a recipe this workspace's params.yaml; the old one is kept."""
    from cli import recipes as all_recipes
    from pretune.lineage.graph import find_root

    done = all_recipes.init(find_root(), recipe, data)
    if as_json:
        print(json.dumps(vars(done)))
        return
    print(f"params.yaml is now the recipe {recipe}, and dvc.yaml lists its data; what they were lies in {done.kept}")
    for path in done.brought:
        print(f"copied   {path}")
    for path in done.missing:
        print(f"missing  {path}: put it there, or: pretune init {recipe} --data FOLDER")
    print("next:    pretune run")
