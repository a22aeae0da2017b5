"""params.yaml with other values: `--set section.key=value`."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from pretune.config.files import BROKEN, read_yaml, write_atomically
from pretune.config.params import RENAMED, Params, validate
from pretune.errors import ParamsError, did_you_mean

OPEN_SECTIONS = ("model.config", "pretrain.settings", "finetune.settings", "adaptation.settings")  # --set may add keys


def overridden(path: Path, assignments: Iterable[str]) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """The content of params.yaml with `section.key=value` assignments applied, checked in full.

    Returns the document, comments and layout kept, and {dotted path: (old, new)}. ParamsError lists every problem.
    """
    known = set(_dotted_paths(read_yaml(path), Params))
    document = _round_trip().load(path)
    problems: list[str] = []
    changes: dict[str, tuple[Any, Any]] = {}
    for assignment in assignments:
        try:
            dotted, value = _parse(assignment, known)
        except ValueError as error:
            problems.append(f"--set {assignment}: {error}")
            continue
        *sections, key = dotted.split(".")
        node = document
        for section in sections:  # an earlier assignment may have replaced one, as `adaptation.settings={}` does
            node = node.setdefault(section, {}) if isinstance(node, MutableMapping) else node
        if not isinstance(node, MutableMapping):
            problems.append(f"--set {assignment}: {'.'.join(sections)} is no section")
            continue
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
    write_atomically(target, as_text(document))
    return changes


def as_text(document: Any) -> str:
    """The document of `overridden` as YAML."""
    text = io.StringIO()
    _round_trip().dump(document, text)
    return text.getvalue()


def _parse(assignment: str, known: Collection[str]) -> tuple[str, Any]:
    """The dotted path and the value of an assignment. Raises ValueError with the reason where it is none."""
    dotted, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError("write it as section.key=value")
    section, _, key = dotted.rpartition(".")
    if dotted not in known and section not in OPEN_SECTIONS:
        hint = f" (it is called {RENAMED[key]} now)" if key in RENAMED else did_you_mean(dotted, known)
        raise ValueError(f"no such key{hint}")
    try:
        return dotted, YAML(typ="safe", pure=True).load(text)
    except BROKEN:
        raise ValueError("the value is not valid YAML") from None


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.Representer = _Representer
    return yaml


class _Representer(RoundTripRepresenter):
    """Writes None as `null`. A class of its own: DVC writes dvc.lock with its base class, in the same process."""


_Representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _dotted_paths(data: Mapping[str, Any], model: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all values. Sections are left out; a value that is a mapping counts, and so do the values in it."""
    for key, value in data.items():
        field = getattr(model, "model_fields", {}).get(key)
        annotation = field.annotation if field and isinstance(field.annotation, type) else None
        if not (annotation and issubclass(annotation, BaseModel)):
            yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_paths(value, annotation, f"{prefix}{key}.")
