"""Recipes: the complete params files in `examples/`, with facts in their first lines; `init` installs one."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cli import checkpoint, graphs
from pretune.config import files, overrides, params, source_spec
from pretune.errors import DataError, GraphError, NotFoundInRecordsError, ParamsError, did_you_mean
from pretune.evaluation.benchmarks import tasks as benchmarks
from pretune.lineage.graph import state_dir

FOLDER = "examples"
FACT = re.compile(r"# (model|data|time|expect): +(.+)")
HUB = re.compile(r"[^/]+(/[^/]+)?@[^/]+")


@dataclass(frozen=True)
class Recipe:
    """A file in `examples/`; its first comment holds all but name and path."""

    name: str
    path: Path
    title: str
    model: str
    data: str
    time: str
    expect: str

    def facts(self) -> dict[str, str]:
        """All fields except the path."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def every(root: Path) -> list[Recipe]:
    """All recipes, by name."""
    return [_read(path) for path in sorted((root / FOLDER).glob("*.yaml"))]


def find(root: Path, name: str) -> Recipe:
    """One recipe. Raises NotFoundInRecordsError, with the nearest name, if there is none of this name."""
    known = {recipe.name: recipe for recipe in every(root)}
    if name not in known:
        raise NotFoundInRecordsError(
            f"no recipe `{name}`{did_you_mean(name, known)}; there are: {', '.join(known)}", "pretune recipes"
        )
    return known[name]


@dataclass(frozen=True)
class Written:
    """The result of `init`. kept: the folder of the replaced files. brought, missing: inputs copied and missing."""

    recipe: str
    kept: str
    brought: list[str]
    missing: list[str]


def init(root: Path, name: str, data: Path | None = None, model: str | None = None) -> Written:
    """Replace params.yaml by the recipe and the inputs in dvc.yaml by the recipe's; both old files are kept.

    Missing inputs are copied from the folder `data`, where they are called NAME or FOLDER/NAME, as in the workspace.
    model: a checkpoint to start from instead of the recipe's model (cli/checkpoint.py).
    """
    recipe = find(root, name)
    text = recipe.path.read_text(encoding="utf-8") if model is None else _from_checkpoint(root, recipe, model)
    new = YAML(typ="safe", pure=True).load(text)
    params.validate(new)
    needed = sorted({path for paths in inputs(root, new).values() for path in paths if not (root / path).exists()})
    if data is not None and not data.is_dir():
        raise DataError(f"--data {data}: no such folder", f"pretune init {name} --data FOLDER")
    copied = [path for path in needed if data is not None and _copy_input(data, root / path)]
    kept = install(root, text, name)
    return Written(name, kept, copied, [path for path in needed if path not in copied])


def _from_checkpoint(root: Path, recipe: Recipe, model: str) -> str:
    """The recipe with the settings for the checkpoint `model`. ParamsError if they do not go with it."""
    from pretune.objectives import compatibility

    found = checkpoint.settings(root, params.load(recipe.path), model)
    assigned = [f"{key}={json.dumps(value)}" for key, value in found.items()]
    document, _ = overrides.overridden(recipe.path, assigned)
    if problems := compatibility.problems(params.validate(document), root):
        raise ParamsError(problems, "pretune recipes   (one for this kind of model), or another --model")
    return overrides.as_text(document)


def install(root: Path, text: str, name: str) -> str:
    """Make `text` params.yaml, and give dvc.yaml its graph and its inputs in place of the old ones.

    Returns the folder that keeps both old files: its name ends in `name`.
    """
    old, new = files.read_yaml(root / "params.yaml"), YAML(typ="safe", pure=True).load(text)
    params.validate(new)
    document = _yaml().load((root / "dvc.yaml").read_text(encoding="utf-8"))
    graphs.apply(document, root, graphs.needed(new))
    graph = _with_inputs(document, inputs(root, old), inputs(root, new))
    kept = _keep(root, name)
    files.write_atomically(root / "params.yaml", text)
    files.write_atomically(root / "dvc.yaml", graph)
    return str(kept.relative_to(root))


def declare(root: Path, stage: str, paths: Sequence[str]) -> list[str]:
    """List paths under the deps of a stage in dvc.yaml; those that it listed not, which are returned."""
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    stages = YAML(typ="safe", pure=True).load(text)["stages"]
    if stage not in stages:
        raise GraphError(f"no stage {stage} in dvc.yaml{did_you_mean(stage, stages)}", f"stages: {', '.join(stages)}")
    listed = {str(path) for path in stages[stage]["deps"]}
    missing = [path for path in dict.fromkeys(paths) if path not in listed]
    if absent := [path for path in missing if not (root / path).exists()]:
        raise DataError(
            [f"{path}: no such file or folder" for path in absent], "correct the path, or put the data there"
        )
    if missing:
        files.write_atomically(root / "dvc.yaml", _with_inputs(_yaml().load(text), {}, {stage: missing}))
    return missing


def inputs(root: Path, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The files and folders that params name, by the stage that reads them; dvc.yaml has to list them."""
    from pretune.data import tokenizer

    by_stage = {"ingest": list(dict.fromkeys(source_spec.local_paths(values["ingest"]["source"], root)))}
    if values["prepare"]["tokenizer"] not in tokenizer.KINDS:
        by_stage["prepare"] = [values["prepare"]["tokenizer"]]
    checkpoint = values["model"]["init"]
    if checkpoint is not None and not HUB.fullmatch(checkpoint):
        by_stage |= {stage: [checkpoint] for stage in ("pretrain", "scratch", "label_efficiency", "evaluate")}
    teacher = values.get("teacher")
    if teacher and not HUB.fullmatch(teacher["init"]):
        by_stage["teacher"] = [teacher["init"]]
    if named := benchmarks.paths(values["evaluate"].get("benchmarks", []), root):
        by_stage["evaluate"] = [*by_stage.get("evaluate", []), *named]
    return by_stage


def _read(path: Path) -> Recipe:
    head = path.read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    facts = {match[1]: match[2] for line in head if (match := FACT.fullmatch(line))}
    missing = sorted({"model", "data", "time", "expect"} - facts.keys())
    if missing:
        raise DataError(f"{path.name} does not say `# {missing[0]}: ...` in its first comment", f"edit {path}")
    return Recipe(path.stem, path, head[0].removeprefix("# "), **facts)


def _yaml() -> YAML:
    """A reader and writer that keeps the comments and the layout of dvc.yaml."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _with_inputs(document: Any, old: dict[str, list[str]], new: dict[str, list[str]]) -> str:
    """The text of dvc.yaml, whose content is `document`, with the new inputs in place of the old ones."""
    for stage in sorted((old.keys() | new.keys()) & set(document["stages"])):  # a graph that is left has taken its own
        deps = document["stages"][stage]["deps"]
        for path in (set(old.get(stage, [])) - set(new.get(stage, []))) & set(deps):
            deps.remove(path)
        for path in reversed([path for path in new.get(stage, []) if path not in deps]):
            deps.insert(0, path)
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()


def _copy_input(data: Path, target: Path) -> bool:
    """Copy an input from `data`. Returns False if it is not there."""
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
    """Copy params.yaml and dvc.yaml to a new folder, which is returned."""
    kept = state_dir(root) / "kept"
    number = 1 + sum(1 for _ in kept.glob("before-*")) if kept.is_dir() else 1
    folder = kept / f"before-{number}-{name}"
    folder.mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(root / file, folder / file)
    return folder
