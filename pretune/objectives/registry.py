"""What params.yaml chooses by name: an objective and its settings; whether they suit the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from pretune.errors import ParamsError, did_you_mean
from pretune.objectives.base import BaseObjective

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.config.section import Section

K = TypeVar("K", bound=BaseObjective)


def choose(table: Mapping[str, type[K]], section: str, params: TrainingParams, family: str) -> tuple[type[K], Section]:
    """The class of `params.objective`, and its settings. ParamsError lists all that does not go together."""
    found = problems(table, section, params, family)
    if found:
        raise ParamsError(found, "edit params.yaml (docs/models.md lists what goes with what), then run again")
    kind = table[params.objective]
    return kind, kind.Settings.model_validate(params.settings)


def problems(table: Mapping[str, type[BaseObjective]], section: str, params: TrainingParams, family: str) -> list[str]:
    """What is wrong with the choice of an objective for a model of type `family`, one line each."""
    name = params.objective
    if name not in table:
        near = did_you_mean(name, table) or f": {', '.join(table)}"
        return [f"{section}.objective: no objective `{name}`{near}"]
    kind = table[name]
    found = []
    if family not in kind.families():
        others = [other for other, each in table.items() if family in each.families()]
        able = f"that model learns: {', '.join(others)}" if others else f"no {section} objective is for that model"
        models = kind.families()
        shown = ", ".join(models[:12]) + (f" and {len(models) - 12} more" if len(models) > 12 else "")
        found.append(f"{section}.objective: {name} is not for model.type {family}; {able}; {name} is for: {shown}")
    if params.metric_for_best_model not in {"last", *kind.metrics}:
        allowed = ", ".join(["last", *kind.metrics])
        found.append(
            f"{section}.metric_for_best_model: {params.metric_for_best_model} is no metric of {name}; "
            f"allowed: {allowed}"
        )
    if getattr(params, "label_smoothing", 0.0) and not getattr(kind, "smooths", False):
        found.append(f"{section}.label_smoothing: {name} has no labels to smooth; write 0.0")
    if getattr(params, "calibrate", False) and not getattr(kind, "calibrates", False):
        found.append(f"{section}.calibrate: {name} answers without probabilities; write false")
    return found + _of_settings(kind, f"{section}.settings", params.settings)


def _of_settings(kind: type[BaseObjective], dotted: str, settings: Mapping[str, Any]) -> list[str]:
    try:
        kind.Settings.model_validate(settings)
    except ValidationError as error:
        return [_describe(dict(item), dotted, list(kind.Settings.model_fields)) for item in error.errors()]
    return []


def _describe(item: dict[str, Any], dotted: str, keys: list[str]) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"{dotted}.{key}: no setting of this objective{did_you_mean(key, keys)}"
    if item["type"] == "missing":
        return f"{dotted}.{key}: missing; the objective needs it"
    return f"{dotted}.{key}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
