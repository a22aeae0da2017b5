"""A point of a sweep as arguments of `--set`, and as params.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pretune.studies.dimensions import same, written
from pretune.studies.results import Point

SETTINGS_OF = {  # a key: the section of settings that only its value in params.yaml understands
    "pretrain.objective": "pretrain.settings",
    "finetune.objective": "finetune.settings",
    "align.objective": "align.settings",
    "adaptation.method": "adaptation.settings",
}


def _changes(point: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What has to be set for a point, in order.

    Another objective or adaptation than that of params.yaml has other settings, so that those of params.yaml go first.
    """
    replaced: list[tuple[str, Any]] = [
        (section, {})
        for key, section in SETTINGS_OF.items()
        if key in point and section not in point and not same(point[key], value_of(params, key))
    ]
    return [*replaced, *point.items()]


def assignments(point: Point, params: Mapping[str, Any]) -> list[str]:
    """The `--set` arguments of a point, each of which reads back as the same value. params: content of params.yaml."""
    return [f"{key}={written(value)}" for key, value in _changes(point, params)]


def applied(point: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The content of params.yaml with a point's values: that of `overridden(…, assignments(…))`, without its checks."""
    document = dict(params)
    for key, value in _changes(point, params):
        document = _with(document, key.split("."), value)
    return document


def _with(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    below = node.get(path[0])
    return {**node, path[0]: _with(below if isinstance(below, Mapping) else {}, path[1:], value) if path[1:] else value}


def value_of(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; KeyError where it has none."""
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value
