"""Graphs that recipes bring: stages, and inputs of others, that dvc.yaml has for some params only.

A file in examples/graphs holds stages as in dvc.yaml. One with a `cmd` is added; of another the deps and params are
added to the stage of its name, before its own, since `evaluate` measures the first of its models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pretune.objectives.requirements import REFERENCED

FOLDER = Path("examples/graphs")
BEFORE = "evaluate"  # where stages are added
LISTS = ("deps", "params")


def needed(values: Mapping[str, Any]) -> list[str]:
    """The names of the graphs that params need."""
    objective, graphs = values["finetune"]["objective"], ["teacher"] if values.get("teacher") else []
    if values.get("align"):
        return [*graphs, "align"]
    return [*graphs, *(["reference"] if objective in REFERENCED else [])]


def apply(document: Any, root: Path, names: Iterable[str]) -> None:
    """Give the content of dvc.yaml these graphs of the folder, and none of the others."""
    graphs = {path.stem: YAML().load(path)["stages"] for path in sorted((root / FOLDER).glob("*.yaml"))}
    for graph in graphs.values():
        _remove(document["stages"], graph)
    for name in names:
        _add(document["stages"], graphs[name])


def _add(stages: Any, graph: Mapping[str, Any]) -> None:
    for name, stage in graph.items():
        if "cmd" in stage:
            stages.insert(list(stages).index(BEFORE), name, stage)
            continue
        for key in LISTS:
            for entry in reversed(stage.get(key, [])):
                stages[name][key].insert(0, entry)


def _remove(stages: Any, graph: Mapping[str, Any]) -> None:
    for name, stage in graph.items():
        if "cmd" in stage:
            stages.pop(name, None)
            continue
        for key in LISTS:
            for entry in stage.get(key, []):
                if entry in stages[name][key]:
                    stages[name][key].remove(entry)
