"""The search of a sweep: Optuna proposes points, and keeps what became of them in a SQLite file.

What is proposed is a function of the sweep's seed and of the trials that have ended, so that a sweep that was killed
goes on as if it had not been. Optuna's own tools open the file: `optuna-dashboard sqlite:///…/study.db`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pretune.studies.results import Point, SeedResult, State, TrialResult
from pretune.studies.settings import SweepSettings
from pretune.studies.space import Space

FILE = "study.db"
ATTEMPTS = 200  # at a point that is new and keeps to the constraints, before the search ends
STARTUP = 10  # random points before TPE learns from them
WATCHED = 5  # trials that end before the median prunes others
HALVING = 3  # successive halving keeps one of so many


class Feasible(Protocol):
    """Says why a point cannot run."""

    def __call__(self, point: Point) -> list[str]:
        """One line for each reason; [] if it can."""


@dataclass(frozen=True)
class Proposal:
    """A point to run. number: of the trial, from 0."""

    number: int
    point: Point
    trial: optuna.Trial
    seen: list[float] = field(default_factory=list)  # values of validations so far


class Search:
    """The study in `folder`. higher: for each metric, whether higher is better. feasible: checks a point."""

    def __init__(
        self, folder: Path, settings: SweepSettings, space: Space, higher: Sequence[bool], feasible: Feasible
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`: since 2.8, and unchanged
        for name in ("alembic", "sqlalchemy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._settings, self._space, self._feasible, self._higher = settings, space, feasible, list(higher)
        self._pruner = _pruner(settings)
        self.exhausted = ""  # why there are no more points, if there are none
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / FILE}",
            study_name=settings.name,
            directions=["maximize" if better else "minimize" for better in higher],
            load_if_exists=True,
        )
        self._grid = (settings.points or space.grid()) if settings.sampler == "grid" else None

    def interrupted(self) -> list[Proposal]:
        """The trials that were going on when the sweep ended, to be gone on with."""
        proposals = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            if "point" in trial.user_attrs:
                running = optuna.Trial.__new__(optuna.Trial)  # its constructor would draw values anew
                running.__dict__ |= {
                    "study": self._study,
                    "_trial_id": trial._trial_id,
                    "storage": self._study._storage,
                }
                proposals.append(Proposal(trial.user_attrs["number"], json.loads(trial.user_attrs["point"]), running))
            else:  # killed while its point was drawn: it is drawn again
                self._study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return proposals

    def propose(self) -> Proposal | None:
        """The next point; None if all trials have been proposed, or if no new one can be found."""
        number = len(self._numbered())
        if self._settings.trials is not None and number >= self._settings.trials:
            return None
        if self._grid is not None:
            return self._next_of_grid(number)
        for attempt in range(ATTEMPTS):
            self._study.sampler = _sampler(self._settings, [self._settings.search_seed, number, attempt])
            trial = self._study.ask()
            point = self._space.suggest(trial)
            if self._feasible(point):
                self._study.tell(trial, state=TrialState.FAIL)
            elif same := self._twin(point):
                self._tell_again(trial, same)
            else:
                return self._accepted(number, point, trial)
        self.exhausted = (
            f"no new point was found in {ATTEMPTS} attempts: the space has hardly more, or constraints forbid them"
        )
        return None

    def report(self, proposal: Proposal, step: int, value: float) -> bool:
        """Note the metric after a step of training. Returns whether the trial should be pruned.

        Only trials that ended before this one was proposed count: otherwise it would depend on the speed of others.
        """
        trial = proposal.trial
        trial_id = trial._trial_id
        self._study._storage.set_trial_intermediate_value(trial_id, step, value)
        frozen = self._study._storage.get_trial(trial_id)
        before = set(frozen.user_attrs["after"])
        return bool(self._pruner.prune(cast("optuna.Study", _Earlier(self._study, before, trial_id)), frozen))

    def tell(self, proposal: Proposal, values: Sequence[float], seeds: Sequence[SeedResult]) -> None:
        """A trial is complete. values: the mean over the seeds, for each metric."""
        self._note(proposal, seeds)
        self._end(proposal, TrialState.COMPLETE, values)

    def tell_ended(self, proposal: Proposal, state: State, note: str, seeds: Sequence[SeedResult] = ()) -> None:
        """A trial was pruned, failed or was left out."""
        self._note(proposal, seeds)
        storage, trial_id = self._study._storage, proposal.trial._trial_id
        storage.set_trial_user_attr(trial_id, "note", note)
        storage.set_trial_user_attr(trial_id, "state", state)
        self._end(proposal, TrialState.PRUNED if state == "pruned" else TrialState.FAIL, None)

    def results(self) -> list[TrialResult]:
        """All trials, in the order in which they were proposed."""
        return [_result(trial) for trial in self._numbered()]

    def importance(self) -> dict[str, float]:
        """The share of the variance that each key explains (fANOVA, Hutter et al. 2014); {} where it cannot be told.

        Only keys that every complete trial has are compared.
        """
        complete = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        shared = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
        varied = [key for key in shared if len({str(trial.params[key]) for trial in complete}) > 1]
        if len(complete) < 4 or not varied:
            return {}
        target = None if len(self._higher) == 1 else (lambda trial: trial.values[0])
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._settings.search_seed)
        found = optuna.importance.get_param_importances(
            self._study, evaluator=evaluator, params=sorted(varied), target=target
        )
        return {key: float(value) for key, value in found.items()}

    def _next_of_grid(self, number: int) -> Proposal | None:
        assert self._grid is not None
        points = [point for point in self._grid if not self._feasible(point)]
        if number >= len(points):
            return None
        self._study.enqueue_trial(self._space.encoded(points[number]))
        trial = self._study.ask()
        return self._accepted(number, self._space.suggest(trial), trial)

    def _accepted(self, number: int, point: Point, trial: optuna.Trial) -> Proposal:
        after = [earlier._trial_id for earlier in self._numbered() if earlier.state.is_finished()]
        trial.set_user_attr("after", after)
        trial.set_user_attr("number", number)
        trial.set_user_attr("point", json.dumps(point))
        return Proposal(number, point, trial)

    def _numbered(self) -> list[FrozenTrial]:
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if "point" in trial.user_attrs]
        return sorted(trials, key=lambda trial: int(trial.user_attrs["number"]))

    def _twin(self, point: Point) -> FrozenTrial | None:
        text = json.dumps(point)
        return next((trial for trial in self._numbered() if trial.user_attrs["point"] == text), None)

    def _tell_again(self, trial: optuna.Trial, twin: FrozenTrial) -> None:
        """Tell what is known of a point that was proposed again."""
        if twin.state == TrialState.COMPLETE:
            self._study.tell(trial, twin.values)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _note(self, proposal: Proposal, seeds: Sequence[SeedResult]) -> None:
        content = json.dumps([asdict(seed) for seed in seeds])
        self._study._storage.set_trial_user_attr(proposal.trial._trial_id, "seeds", content)

    def _end(self, proposal: Proposal, state: TrialState, values: Sequence[float] | None) -> None:
        self._study._storage.set_trial_state_values(proposal.trial._trial_id, state, values)


class _Earlier:
    """A study as a pruner sees it: the trials that had ended when a trial was proposed, and itself."""

    def __init__(self, study: optuna.Study, before: set[int], own: int) -> None:
        self._study, self._visible = study, before | {own}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [trial for trial in trials if trial._trial_id in self._visible]


def open_results(folder: Path, settings: SweepSettings, space: Space, higher: Sequence[bool]) -> Search:
    """The study in `folder`, to be looked at."""
    return Search(folder, settings, space, higher, lambda _point: [])


def _sampler(settings: SweepSettings, key: Sequence[int]) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)


def _pruner(settings: SweepSettings) -> optuna.pruners.BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=WATCHED)
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING)
    return optuna.pruners.NopPruner()


def _result(trial: FrozenTrial) -> TrialResult:
    attributes: Mapping[str, Any] = trial.user_attrs
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    seeds = [
        SeedResult(**seed | {"curve": [(int(step), float(value)) for step, value in seed["curve"]]})
        for seed in json.loads(attributes.get("seeds", "[]"))
    ]
    state: Any = attributes.get("state") or states.get(trial.state, "running")
    return TrialResult(attributes["number"], json.loads(attributes["point"]), state, seeds, attributes.get("note", ""))
