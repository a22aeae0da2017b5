"""The folder of a sweep: its settings, the params.yaml that it varies, its study and what its runs have found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pretune.config import files, overrides, params
from pretune.config.params import Params
from pretune.errors import NotFoundInRecordsError, ParamsError, did_you_mean
from pretune.lineage.graph import state_dir
from pretune.release.last_model import LastModel
from pretune.studies import outcomes, points, search, settings, space
from pretune.studies.judge import Judge, draws, estimate_of
from pretune.studies.results import Point, SeedResult, TrialResult
from pretune.studies.search import Search
from pretune.studies.settings import SweepSettings
from pretune.studies.space import Space


class SweepFolder:
    """A sweep on disk. home: the workspace."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name, self.state = home, name, state_dir(home)
        self.path = self.state / "sweeps" / name
        self.params_file = self.path / "params.yaml"
        self.predictions, self.costs = self.state / "held-out", self.state / "costs"  # shared by all sweeps

    @classmethod
    def create(cls, home: Path, asked: SweepSettings, overridden: Sequence[str] = ()) -> SweepFolder:
        """A new sweep, or an old one that was asked for in the same words; ParamsError if it differs.

        overridden: `section.key=value` of params.yaml for all its runs.
        """
        folder = cls(home, asked.name)
        content = asked.model_dump_json(indent=1)
        file = folder.path / "settings.json"
        folder.path.mkdir(parents=True, exist_ok=True)
        new_params = folder.path / "params.new.yaml"
        overrides.override(home / "params.yaml", overridden, new_params)
        if file.is_file():
            same_params = folder.params_file.read_bytes() == new_params.read_bytes()
            new_params.unlink()
            if folder.settings != asked or not same_params:
                what = "other settings" if same_params else "another params.yaml"
                raise ParamsError(
                    f"there is a sweep {asked.name} with {what}",
                    f"pretune sweep resume {asked.name}   (or give the new one another --name)",
                )
            return folder
        new_params.replace(folder.params_file)
        files.write_atomically(file, content)  # last: it makes the sweep exist
        return folder

    @classmethod
    def open(cls, home: Path, name: str) -> SweepFolder:
        """The sweep of this name; NotFoundInRecordsError, with those that there are, if there is none."""
        folder = cls(home, name)
        if not (folder.path / "settings.json").is_file():
            known = cls.names(home)
            listed = f"; there are: {', '.join(known)}" if known else ""
            raise NotFoundInRecordsError(
                f"no sweep `{name}`{did_you_mean(name, known)}{listed}", "pretune sweep --help"
            )
        return folder

    @staticmethod
    def names(home: Path) -> list[str]:
        """The sweeps of the workspace, the newest last."""
        found = (state_dir(home) / "sweeps").glob("*/settings.json")
        return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]

    @cached_property
    def settings(self) -> SweepSettings:
        """What was asked for."""
        return settings.validate(files.read_json(self.path / "settings.json"))

    @cached_property
    def space(self) -> Space:
        """The values to try."""
        return space.from_file({"space": self.settings.space, "constraints": self.settings.constraints})

    @cached_property
    def params(self) -> Params:
        """params.yaml as it was when the sweep began."""
        return params.load(self.params_file)

    @cached_property
    def base(self) -> dict[str, Any]:
        """The same, as a mapping."""
        return files.read_yaml(self.params_file)

    @cached_property
    def higher(self) -> list[bool]:
        """For each metric, whether higher is better."""
        return self.settings.higher_is_better(LastModel(self.settings.last).params(self.params).objective)

    @property
    def judge(self) -> Judge:
        """Compares the trials by the first metric."""
        evaluate = self.params.evaluate
        name = self.settings.metrics[0]
        return Judge(name, self.higher[0], evaluate.bootstrap_samples, evaluate.confidence, self.params.seed)

    @property
    def metric_name(self) -> str:
        """The first metric as people call it: the headline by its name, once a trial knows that."""
        name = self.settings.metrics[0]
        if name != "headline":
            return self.settings.metric[0]
        run = next((self.path / "runs").glob("*.json"), None)
        return outcomes.headline_name(Path(files.read_json(run)["held_out"])) if run else name

    def search(self) -> Search:
        """The study."""
        return Search(self.path, self.settings, self.space, self.higher, self.infeasible)

    def infeasible(self, point: Point) -> list[str]:
        """Why a point cannot run: constraints that do not hold, and what the schema refuses."""
        if problems := self.space.violated(point, self.base):
            return problems
        try:
            params.validate(points.applied(point, self.base))
        except ParamsError as error:
            return error.problems
        return []

    def assignments(self, point: Point, seed: int) -> list[str]:
        """What is set for run `seed` of a point."""
        seeds = settings.seed_overrides(list(self.space.keys), self.base, seed)
        return [*points.assignments(point, self.base), *(f"{key}={value}" for key, value in seeds.items())]

    def outcome_file(self, number: int, seed: int) -> Path:
        """Where the outcome of a run is kept."""
        return self.path / "runs" / f"{number}-{seed}.json"

    def outcome(self, number: int, seed: int) -> dict[str, Any] | None:
        """The outcome of a run that is complete."""
        path = self.outcome_file(number, seed)
        return files.read_json(path) if path.is_file() else None

    def complete_outcomes(self, number: int) -> dict[int, dict[str, Any]]:
        """The outcomes of a trial's runs that are complete, by seed."""
        found = {seed: self.outcome(number, seed) for seed in range(self.settings.seeds)}
        return {seed: outcome for seed, outcome in found.items() if outcome is not None}

    def keep_outcome(self, number: int, seed: int, outcome: Mapping[str, Any]) -> None:
        """Keep the outcome of a run."""
        path = self.outcome_file(number, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, json.dumps(dict(outcome)))

    def seed_results(self, number: int) -> list[SeedResult]:
        """The runs of a trial that are complete."""
        return [self._seed_result(seed, outcome) for seed, outcome in self.complete_outcomes(number).items()]

    def _seed_result(self, seed: int, outcome: Mapping[str, Any]) -> SeedResult:
        rows, metric = outcome["curves"][self.settings.stage], self.settings.metrics[0]
        curve = outcomes.validations(rows, metric) or outcomes.validations(rows, "loss")
        value = value_of(outcome, metric)
        return SeedResult(seed, value, outcome["costs"], curve, outcome["run"], outcome["held_out"])

    def test(self, number: int) -> dict[str, Any] | None:
        """What a trial reached on the test rows: {number, files, estimate}; None before they were looked at."""
        path = self.path / "tests" / f"{number}.json"
        return files.read_json(path) if path.is_file() else None

    def keep_test(self, number: int, predictions: list[str]) -> None:
        """Note what a trial reaches on the test rows."""
        judge = self.judge
        values = draws([Path(file) for file in predictions], judge.metric, judge.samples, judge.confidence, judge.seed)
        estimate = estimate_of(values, judge.confidence, judge.seed, settings.bounds(self.metric_name)).as_dict()
        content = {"number": number, "files": predictions, "estimate": estimate}
        path = self.path / "tests" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, json.dumps(content))

    def trials(self) -> list[TrialResult]:
        """All trials, as the study has them."""
        return self.search().results()

    @property
    def study_url(self) -> str:
        """The address of the study for Optuna's own tools."""
        return f"sqlite:///{self.path / search.FILE}"


def value_of(outcome: Mapping[str, Any], metric: str) -> float:
    """A metric or a cost of a run; ParamsError, with those that there are, if it has none of this name."""
    known = outcome["values"] | outcome["costs"]
    if metric not in known:
        raise ParamsError(
            f"no metric `{metric}`{did_you_mean(metric, known)}; there are: {', '.join(known)}",
            "pretune sweep --metric NAME …",
        )
    return float(known[metric])
