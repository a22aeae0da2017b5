"""Which trials of a sweep are stopped early, by their learning curves."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Literal, cast

import optuna
from optuna.trial import FrozenTrial

WATCHED = 5  # trials that end before the median prunes others
HALVING = 3  # successive halving keeps one of so many


def pruner(name: Literal["none", "median", "halving"]) -> optuna.pruners.BasePruner:
    """The pruner of this name: the median rule (Golovin et al. 2017), or successive halving (Li et al. 2020)."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=WATCHED)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING)
    return optuna.pruners.NopPruner()


def is_worse(
    rule: optuna.pruners.BasePruner, study: optuna.Study, trial: FrozenTrial, step: int, before: Collection[int]
) -> bool:
    """Whether a trial that has reached a step, from 1, should be pruned.

    before: ids of the trials that it is compared with. Steps of the trial beyond this one, from before the sweep was
    killed, do not count.
    """
    return bool(rule.prune(cast("optuna.Study", _Earlier(study, before)), _until(trial, step)))


class _Earlier:
    """A study as a pruner sees it: the trials that had ended when a trial was proposed."""

    def __init__(self, study: optuna.Study, before: Collection[int]) -> None:
        self._study, self._visible = study, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [trial for trial in trials if trial._trial_id in self._visible]


def _until(trial: FrozenTrial, step: int) -> FrozenTrial:
    """The trial as it was when it reached a step, where successive halving had not yet noted this step's rung."""
    cut = copy.copy(trial)
    cut.intermediate_values = {at: value for at, value in trial.intermediate_values.items() if at <= step}
    later = {f"completed_rung_{rung}" for rung in range(64) if HALVING**rung >= step}
    cut.system_attrs = {name: value for name, value in trial.system_attrs.items() if name not in later}
    return cut
