"""The search of a sweep: Optuna proposes points, and keeps what became of them in a SQLite file.

What is proposed is a function of the sweep's seed and of the trials that have ended, so that a sweep that was killed
goes on as if it had not been. Optuna's own tools open the file: `optuna-dashboard sqlite:///…/study.db`.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pretune.errors import ParamsError
from pretune.studies import pruning
from pretune.studies.results import Point, SeedResult, State, TrialResult
from pretune.studies.settings import SweepSettings
from pretune.studies.space import Space

FILE = "study.db"
ATTEMPTS = 200  # at a point that is new and keeps to the constraints, before the search ends
LEARNED = 20  # of these, attempts of a sampler that learns: later ones are random, for it may insist on known points
FEW = 1000  # points of a finite space that are listed when the sampler finds no new one
STARTUP = 10  # random points before TPE learns from them


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
        self._pruner = pruning.pruner(settings.pruner)
        self.exhausted = ""  # why there are no more points, if there are none
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / FILE}",
            study_name=settings.name,
            directions=["maximize" if better else "minimize" for better in higher],
            load_if_exists=True,
        )

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
        return [*proposals, *(self._again(trial) for trial in self._numbered() if _may_be_retried(trial))]

    def propose(self) -> Proposal | None:
        """The next point; None if all trials have been proposed, or if no new one can be found."""
        number = len(self._numbered())
        if self._settings.trials is not None and number >= self._settings.trials:
            return None
        if self._settings.sampler == "grid":
            return self._enqueued(number, self._grid[number]) if number < len(self._grid) else None
        untried = self._untried()
        if untried == []:
            self.exhausted = f"all {number} points of the space have been tried"
            return None
        return self._drawn(number, ATTEMPTS if untried is None else LEARNED) or self._left(number, untried)

    def lacking(self, size: int) -> int:
        """How many points to propose for a batch of `size`: fewer if the last batch was interrupted.

        A batch is what is proposed before any of it ends. One that was interrupted is completed, and not enlarged:
        otherwise its new points would follow from other trials than those of a sweep that was not interrupted.
        """
        trials = self._numbered()
        if all(trial.state.is_finished() for trial in trials):
            return size
        batches = [trial.user_attrs["after"] for trial in trials]
        return max(0, size - batches.count(batches[-1]))

    def report(self, proposal: Proposal, step: int, value: float) -> bool:
        """Note the metric after a step of training, from 1. Returns whether the trial should be pruned.

        Only trials that ended before this one was proposed count: otherwise it would depend on the speed of others.
        """
        self._study._storage.set_trial_intermediate_value(proposal.trial._trial_id, step, value)
        trial = self._study._storage.get_trial(proposal.trial._trial_id)
        return pruning.is_worse(self._pruner, self._study, trial, step, set(trial.user_attrs["after"]))

    def tell(self, proposal: Proposal, values: Sequence[float], seeds: Sequence[SeedResult]) -> None:
        """A trial is complete. values: the mean over the seeds, for each metric; with NaN the trial has failed."""
        if any(math.isnan(value) for value in values):
            self.tell_ended(proposal, "failed", "the metric has no value on these rows", seeds)
            return
        self._note(proposal, seeds)
        self._end(proposal, TrialState.COMPLETE, values)

    def tell_ended(
        self, proposal: Proposal, state: State, note: str, seeds: Sequence[SeedResult] = (), *, final: bool = True
    ) -> None:
        """A trial was pruned, failed or was left out. final: it would end the same way if it were tried again."""
        self._note(proposal, seeds)
        storage, trial_id = self._study._storage, proposal.trial._trial_id
        storage.set_trial_user_attr(trial_id, "note", note)
        storage.set_trial_user_attr(trial_id, "state", state)
        storage.set_trial_user_attr(trial_id, "final", final)
        self._end(proposal, TrialState.PRUNED if state == "pruned" else TrialState.FAIL, None)

    def results(self) -> list[TrialResult]:
        """All trials, in the order in which they were proposed."""
        return [_result(trial) for trial in self._numbered()]

    def values(self) -> dict[int, list[float]]:
        """For each complete trial its values of the metrics, in the order of the settings."""
        return {
            int(trial.user_attrs["number"]): list(trial.values)
            for trial in self._numbered()
            if trial.state == TrialState.COMPLETE
        }

    def importance(self) -> dict[str, float]:
        """The share of the variance that each key explains (fANOVA, Hutter et al. 2014); {} where it cannot be told.

        Only keys that every complete trial has are compared.
        """
        complete = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        shared = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
        varied = [key for key in shared if len({str(trial.params[key]) for trial in complete}) > 1]
        if len(complete) < 4 or not varied or len({trial.values[0] for trial in complete}) == 1:
            return {}
        target = None if len(self._higher) == 1 else (lambda trial: trial.values[0])
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._settings.search_seed)
        found = optuna.importance.get_param_importances(
            self._study, evaluator=evaluator, params=sorted(varied), target=target
        )
        return {key: float(value) for key, value in found.items()}

    def _again(self, failed: FrozenTrial) -> Proposal:
        """The point of a trial that failed, in a new trial of the same number: what failed may be mended."""
        attributes = failed.user_attrs
        return self._enqueued(attributes["number"], json.loads(attributes["point"]), attributes["after"])

    def _enqueued(self, number: int, point: Point, after: list[int] | None = None) -> Proposal:
        self._study.enqueue_trial(self._space.encoded(point))
        trial = self._study.ask()
        for key in point:  # Optuna stores what is suggested
            self._space.dimensions[key].suggest(key, trial)
        return self._accepted(number, point, trial, after)

    @cached_property
    def _grid(self) -> list[Point]:
        points = self._settings.points or self._space.grid()
        return [point for point in points if not self._feasible(point)]

    @cached_property
    def _listed(self) -> list[Point] | None:
        """All points, if they are few."""
        if not self._space.is_finite:
            return None
        try:
            points = self._space.grid()
        except ParamsError:  # far too many to list
            return None
        return points if len(points) <= FEW else None

    def _untried(self) -> list[Point] | None:
        """The points that were not proposed, if the space has few."""
        if self._listed is None:
            return None
        tried = self._tried()
        return [point for point in self._listed if json.dumps(point) not in tried]

    def _drawn(self, number: int, attempts: int) -> Proposal | None:
        """A new point of the sampler.

        Draws that are no trials are told FAIL, which samplers ignore: what is drawn next depends on trials only.
        """
        tried = self._tried()
        for attempt in range(attempts):
            self._study.sampler = _sampler(self._settings, [self._settings.search_seed, number, attempt])
            trial = self._study.ask()
            point = self._space.suggest(trial)
            if json.dumps(point) not in tried and not self._feasible(point):
                return self._accepted(number, point, trial)
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _left(self, number: int, untried: Sequence[Point] | None) -> Proposal | None:
        """One of the points that were not proposed; None, and why, if there is none that can run."""
        if untried is None:
            self.exhausted = f"no new point was found in {ATTEMPTS} attempts: constraints exclude most of the space"
            return None
        order = np.random.default_rng([self._settings.search_seed, number]).permutation(len(untried))
        for index in order:
            if not self._feasible(untried[index]):
                return self._enqueued(number, untried[index])
        self.exhausted = f"all {number} points of the space that meet the constraints have been tried"
        return None

    def _accepted(self, number: int, point: Point, trial: optuna.Trial, after: list[int] | None = None) -> Proposal:
        ended = [earlier._trial_id for earlier in self._numbered() if earlier.state.is_finished()]
        trial.set_user_attr("after", ended if after is None else after)
        trial.set_user_attr("number", number)
        trial.set_user_attr("point", json.dumps(point))
        return Proposal(number, point, trial)

    def _numbered(self) -> list[FrozenTrial]:
        """The trials by their numbers; of one that was tried again, the last."""
        trials = {t.user_attrs["number"]: t for t in self._study.get_trials(deepcopy=False) if "point" in t.user_attrs}
        return [trials[number] for number in sorted(trials)]

    def _tried(self) -> set[str]:
        return {trial.user_attrs["point"] for trial in self._numbered()}

    def _note(self, proposal: Proposal, seeds: Sequence[SeedResult]) -> None:
        content = json.dumps([asdict(seed) for seed in seeds])
        self._study._storage.set_trial_user_attr(proposal.trial._trial_id, "seeds", content)

    def _end(self, proposal: Proposal, state: TrialState, values: Sequence[float] | None) -> None:
        self._study._storage.set_trial_state_values(proposal.trial._trial_id, state, values)


def _sampler(settings: SweepSettings, key: Sequence[int]) -> optuna.samplers.BaseSampler:
    """A new sampler for each draw. key: seed of the search, number of the trial, number of the attempt."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    if settings.sampler == "random" or key[-1] >= LEARNED:
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)


def _may_be_retried(trial: FrozenTrial) -> bool:
    """Whether a trial failed for a reason that may be gone, unlike too little memory or a loss that was not finite."""
    attributes = trial.user_attrs
    return trial.state == TrialState.FAIL and attributes["state"] == "failed" and not attributes.get("final")


def _result(trial: FrozenTrial) -> TrialResult:
    attributes: Mapping[str, Any] = trial.user_attrs
    seeds = [
        SeedResult(**seed | {"curve": [(int(step), float(value)) for step, value in seed["curve"]]})
        for seed in json.loads(attributes.get("seeds", "[]"))
    ]
    ended = trial.state in {TrialState.PRUNED, TrialState.FAIL}  # a note can be left of an end that was not completed
    state: Any = "complete" if trial.state == TrialState.COMPLETE else attributes["state"] if ended else "running"
    note = attributes["note"] if ended else ""
    return TrialResult(attributes["number"], json.loads(attributes["point"]), state, seeds, note)
