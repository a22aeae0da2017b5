"""Recipes: the complete params files in `examples/`, what their first lines say, and how one comes into a workspace."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pretune.config import files, params, source_spec
from pretune.errors import DataError, NotFoundInRecordsError, did_you_mean
from pretune.lineage.graph import state_dir

FOLDER = "examples"
FACT = re.compile(r"# (model|data|time|expect): +(.+)")
LEARNT = ("bpe", "byte_bpe", "unigram", "wordpiece")  # tokenizers that are learnt; any other value is a folder
HUB = re.compile(r"[^/]+(/[^/]+)?@[^/]+")


@dataclass(frozen=True)
class Recipe:
    """A file in `examples/`; all but its name and path stand in the comment that it begins with."""

    name: str
    path: Path
    title: str
    model: str
    data: str
    time: str
    expect: str

    def facts(self) -> dict[str, str]:
        """All of it but the path."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def every(root: Path) -> list[Recipe]:
    """All recipes, by name."""
    return [_read(path) for path in sorted((root / FOLDER).glob("*.yaml"))]


def find(root: Path, name: str) -> Recipe:
    """One recipe; NotFoundInRecordsError names the nearest where there is none of that name."""
    known = {recipe.name: recipe for recipe in every(root)}
    if name not in known:
        raise NotFoundInRecordsError(
            f"no recipe `{name}`{did_you_mean(name, known)}; there are: {', '.join(known)}", "pretune recipes"
        )
    return known[name]


@dataclass(frozen=True)
class Written:
    """What `init` did: where the files lie that it replaced, which inputs it brought, which are missing."""

    recipe: str
    kept: str
    brought: list[str]
    missing: list[str]


def init(root: Path, name: str, data: Path | None = None) -> Written:
    """Make the recipe the workspace's params.yaml, and its inputs those of dvc.yaml; what both were is kept.

    Inputs that are missing are copied from `data`: a folder that holds files of their names, or
    folders as theirs.
    """
    recipe = find(root, name)
    new, old = files.read_yaml(recipe.path), files.read_yaml(root / "params.yaml")
    params.validate(new)
    graph = _with_inputs((root / "dvc.yaml").read_text(encoding="utf-8"), inputs(old), inputs(new))
    wanted = sorted({path for paths in inputs(new).values() for path in paths if not (root / path).exists()})
    if data is not None and not data.is_dir():
        raise DataError(f"--data {data}: no such folder", f"pretune init {name} --data FOLDER")
    brought = [path for path in wanted if data is not None and _bring(data, root / path)]
    kept = _keep(root, name)
    _replace(root / "params.yaml", recipe.path.read_text(encoding="utf-8"))
    _replace(root / "dvc.yaml", graph)
    return Written(name, str(kept.relative_to(root)), brought, [path for path in wanted if path not in brought])


def inputs(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The files and folders that params name, by the stage that reads them: what dvc.yaml has to list."""
    found = {"ingest": list(dict.fromkeys(source_spec.local_paths(values["ingest"]["source"])))}
    if values["prepare"]["tokenizer"] not in LEARNT:
        found["prepare"] = [values["prepare"]["tokenizer"]]
    first = values["model"]["init"]
    if first is not None and not HUB.fullmatch(first):
        found |= {"pretrain": [first], "scratch": [first], "label_efficiency": [first]}
    return found


def _read(path: Path) -> Recipe:
    head = path.read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    facts = {found[1]: found[2] for line in head if (found := FACT.fullmatch(line))}
    missing = sorted({"model", "data", "time", "expect"} - facts.keys())
    if missing:
        raise DataError(f"{path.name} does not say `# {missing[0]}: ...` where it begins", f"mend {path}")
    return Recipe(path.stem, path, head[0].removeprefix("# "), **facts)


def _with_inputs(text: str, old: dict[str, list[str]], new: dict[str, list[str]]) -> str:
    """dvc.yaml with the inputs of the new params in place of those of the old."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    for stage in sorted(old.keys() | new.keys()):
        deps = document["stages"][stage]["deps"]
        for path in (set(old.get(stage, [])) - set(new.get(stage, []))) & set(deps):
            deps.remove(path)
        for path in reversed([each for each in new.get(stage, []) if each not in deps]):
            deps.insert(0, path)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _bring(data: Path, target: Path) -> bool:
    """Copy the input from `data`, where it lies there; whether it did."""
    source = next((place for place in _places(data, target) if place.exists()), None)
    if source is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    return True


def _places(data: Path, target: Path) -> Iterator[Path]:
    yield data / target.name
    yield data / target.parent.name / target.name


def _keep(root: Path, name: str) -> Path:
    """Copy params.yaml and dvc.yaml to a folder of their own, which is returned."""
    kept = state_dir(root) / "kept"
    number = 1 + sum(1 for _ in kept.glob("before-*")) if kept.is_dir() else 1
    folder = kept / f"before-{number}-{name}"
    folder.mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(root / file, folder / file)
    return folder


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
