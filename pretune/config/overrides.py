"""params.yaml with other values: `--set section.key=value`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from pretune.config.files import read_yaml
from pretune.config.params import RENAMED, Params, validate
from pretune.errors import ParamsError, did_you_mean

OPEN = ("model.config", "pretrain.settings", "finetune.settings", "adaptation.settings")  # --set may add keys there


def overridden(path: Path, assignments: Iterable[str]) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """The content of params.yaml with `section.key=value` assignments applied, checked in full.

    Returns the document, comments and layout kept, and {dotted path: (old, new)}.
    """
    yaml = _round_trip()
    known = set(_dotted(read_yaml(path), Params))
    document = yaml.load(path)
    problems: list[str] = []
    changes: dict[str, tuple[Any, Any]] = {}
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals:
            problems.append(f"--set {assignment}: write it as section.key=value")
            continue
        *sections, key = dotted.split(".")
        if dotted not in known and ".".join(sections) not in OPEN:
            renamed = f" (it is called {RENAMED[key]} now)" if key in RENAMED else did_you_mean(dotted, known)
            problems.append(f"--set {assignment}: no such key{renamed}")
            continue
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            problems.append(f"--set {assignment}: the value is not valid YAML")
            continue
        node = document
        for section in sections:
            node = node[section]
        changes[dotted] = (node.get(key), value)
        node[key] = value
    try:
        validate(document)
    except ParamsError as error:
        problems += error.problems
    if problems:
        raise ParamsError(problems, "correct --set or params.yaml (docs/params.md explains every key)")
    return document, changes


def override(path: Path, assignments: Iterable[str], target: Path) -> dict[str, tuple[Any, Any]]:
    """Write `path` with the assignments applied to `target`; returns {dotted path: (old, new)}."""
    document, changes = overridden(path, assignments)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        _round_trip().dump(document, file)
    os.replace(partial, target)
    return changes


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.Representer = _Representer
    return yaml


class _Representer(RoundTripRepresenter):
    """Writes None as `null`. A class of its own: DVC writes dvc.lock with the one above, in the same process."""


_Representer.add_representer(type(None), lambda of, _: of.represent_scalar("tag:yaml.org,2002:null", "null"))


def _dotted(data: Mapping[str, Any], model: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all values; a section is none, but a value may be a mapping, and what it holds are values too."""
    for key, value in data.items():
        field = getattr(model, "model_fields", {}).get(key)
        inner = field.annotation if field and isinstance(field.annotation, type) else None
        if not (inner and issubclass(inner, BaseModel)):
            yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, inner, f"{prefix}{key}.")
