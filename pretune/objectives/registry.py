"""Choose an objective and its settings by the names in params.yaml, and check that they suit the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from pretune.config.section import describe
from pretune.errors import ParamsError, did_you_mean
from pretune.objectives.base import BaseObjective

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.config.section import Section

ObjectiveT = TypeVar("ObjectiveT", bound=BaseObjective)
SHOWN = 12  # model types in an error message


def choose(
    table: Mapping[str, type[ObjectiveT]], section: str, params: TrainingParams, family: str
) -> tuple[type[ObjectiveT], Section]:
    """The class of `params.objective` and its settings, for a model of type `family`.

    Raises ParamsError with everything that is wrong with the choice.
    """
    errors = problems(table, section, params, family)
    if errors:
        raise ParamsError(errors, "edit params.yaml (docs/models.md lists what goes with what), then run again")
    objective = table[params.objective]
    return objective, objective.Settings.model_validate(params.settings)


def problems(table: Mapping[str, type[BaseObjective]], section: str, params: TrainingParams, family: str) -> list[str]:
    """What is wrong with the choice of an objective for a model of type `family`, one line each."""
    name = params.objective
    if name not in table:
        near = did_you_mean(name, table) or f": {', '.join(table)}"
        return [f"{section}.objective: no objective `{name}`{near}"]
    objective = table[name]
    errors = []
    if family not in objective.families():
        others = [other for other, candidate in table.items() if family in candidate.families()]
        able = f"that model learns: {', '.join(others)}" if others else f"no {section} objective is for that model"
        types = objective.families()
        shown = ", ".join(types[:SHOWN]) + (f" and {len(types) - SHOWN} more" if len(types) > SHOWN else "")
        errors.append(f"{section}.objective: {name} is not for model.type {family}; {able}; {name} is for: {shown}")
    known = ["last", *objective.metrics, *objective.generated]
    if params.metric_for_best_model not in known:
        allowed = ", ".join(known)
        errors.append(
            f"{section}.metric_for_best_model: {params.metric_for_best_model} is no metric of {name}; "
            f"allowed: {allowed}"
        )
    if objective.whole_batch and params.gradient_accumulation_steps > 1:
        errors.append(
            f"{section}.gradient_accumulation_steps: {name} compares the rows of a batch with each other; write 1, "
            "and gradient_checkpointing: true if memory is short"
        )
    if not getattr(params, "epochs", 1) and not getattr(objective, "answers_untrained", False):
        errors.append(f"{section}.epochs: 0, but the head of {name} is new and has to be trained; write 1 or more")
    if getattr(params, "label_smoothing", 0.0) and not getattr(objective, "smooths", False):
        errors.append(f"{section}.label_smoothing: {name} has no labels to smooth; write 0.0")
    if getattr(params, "calibrate", False) and not getattr(objective, "calibrates", False):
        errors.append(f"{section}.calibrate: {name} predicts no probabilities; write false")
    try:
        settings = objective.Settings.model_validate(params.settings)
        errors += [f"{section}.{conflict}" for conflict in objective.conflicts(settings, params.sequence_length)]
    except ValidationError as error:
        unknown, missing = f"no setting of {name}", f"{name} needs it"
        errors += describe(error, objective.Settings, f"{section}.settings", unknown=unknown, missing=missing)
    return errors
