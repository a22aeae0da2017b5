"""What studies share: sweeps whose trials they look at, and the page that they end in."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.sweep import report
from flows.sweep.folder import SweepFolder
from flows.sweep.sweep import Sweep
from pretune.config import overrides, params
from pretune.config.files import write_atomically
from pretune.config.params import Params
from pretune.errors import StageFailedError
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.release.last_model import LastModel, last_model
from pretune.studies import page, settings, space
from pretune.studies.judge import Judge
from pretune.studies.page import Section
from pretune.studies.results import Point, TrialResult

FOLDER = "reports/studies"


@dataclass(frozen=True)
class Result:
    """A study that has ended. answer: plain sentences. data: its figures, for `--json`."""

    title: str
    question: str
    answer: str
    sections: list[Section]
    commands: list[str]
    data: dict[str, Any] = field(default_factory=dict)


class Study:
    """A study on its way. overridden: `section.key=value` for all its runs. minutes: of work, all in all."""

    def __init__(
        self, home: Path, name: str, *, overridden: Sequence[str] = (), seeds: int | None = None,
        minutes: float | None = None,
    ) -> None:  # fmt: skip
        self.home, self.name, self.overridden, self.seeds = home, name, list(overridden), seeds
        self._deadline = time.monotonic() + 60 * minutes if minutes else None
        self.parts: list[Part] = []
        self.warning = ""

    @cached_property
    def params(self) -> Params:
        """params.yaml with what is overridden."""
        return params.validate(self.base)

    @cached_property
    def base(self) -> dict[str, Any]:
        """The same, as a mapping."""
        return dict(overrides.overridden(self.home / "params.yaml", self.overridden)[0])

    @cached_property
    def last(self) -> LastModel:
        """The model that is judged."""
        return last_model(self.home)

    def sweep(
        self, part: str, points: Sequence[Point], *, seeds: int, metric: str | None = None, tested: str = "all",
        overridden: Sequence[str] = (), last: str | None = None,
    ) -> Part:  # fmt: skip
        """Run the points, or take what is known of them. StageFailedError if the time was up before all had run.

        metric: of the validation rows; default: the headline. tested: the trials that predict the test rows: best,
        all or none. overridden: more `section.key=value` for the runs of this part. last: the stage that its runs end
        with, where no metric needs predictions of the model that is judged.
        """
        keys = list(dict.fromkeys(key for point in points for key in point))
        content = {
            "space": {key: _distinct([point[key] for point in points if key in point]) for key in keys},
            "points": list(points), "sampler": "grid", "seeds": seeds, "tested": tested,
            "metric": [metric or settings.default_metric(self.last.params(self.params).objective)],
        }  # fmt: skip
        changes = [*self.overridden, *overridden]
        base, _ = overrides.overridden(self.home / "params.yaml", changes)
        digest = hashlib.sha256(json.dumps([content, base], sort_keys=True, default=str).encode()).hexdigest()[:8]
        name = f"study-{self.name}-{part}-{digest}"
        asked = settings.validate(content | {"name": name, "last": last or self.last.stage})
        space.check(space.from_file({"space": asked.space}), self.home / "params.yaml")
        folder = SweepFolder.create(self.home, asked, changes)
        minutes = max(0.01, (self._deadline - time.monotonic()) / 60) if self._deadline else None
        sweep = Sweep(folder, minutes=minutes)
        if not sweep.run():
            raise StageFailedError(
                f"the time was up before all runs of the study {self.name} had ended",
                f"{self.command()}   (goes on: what has run is not run again)",
            )
        self.warning = sweep.warning or self.warning
        found = Part(folder)
        self.parts.append(found)
        return found

    def command(self) -> str:
        """The command that makes the study again."""
        words = ["pretune", "study", self.name]
        words += ["--seeds", str(self.seeds)] if self.seeds else []
        words += [word for change in self.overridden for word in ("--set", change)]
        return shlex.join(words)

    def commands(self) -> list[str]:
        """The commands behind the figures: of the study, and of each table of its runs."""
        return [self.command(), *(f"pretune sweep show {part.folder.name}" for part in self.parts)]


class Part:
    """The trials of one sweep of a study."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        seen = report.view(folder)
        self.metric, self.trials, self.estimates = seen.metric, seen.trials, seen.estimates
        self.judge: Judge = folder.judge

    def complete(self) -> list[TrialResult]:
        """The trials that are complete, as they were asked for."""
        return [trial for trial in self.trials if trial.state == "complete"]

    def best(self, trials: Sequence[TrialResult]) -> TrialResult:
        """The best of these by the validation rows. StageFailedError if none is complete."""
        ranked = self.judge.best(trials)
        if not ranked:
            notes = sorted({f"{trial.state}: {trial.note}" for trial in trials})
            raise StageFailedError(
                ["no trial of this part is complete", *notes], f"pretune sweep show {self.folder.name}"
            )
        return ranked[0]

    def test(self, trial: TrialResult) -> Estimate:
        """What the trial reaches on the test rows, with the interval over seeds and rows."""
        found = self.folder.test(trial.number)
        assert found, "the test rows are predicted for trials that are complete"
        return Estimate(**found["estimate"])

    def test_difference(self, better: TrialResult, worse: TrialResult) -> Difference:
        """By how much one trial is better than another on the test rows, paired by rows and seeds."""
        return self.judge.difference(self._tested(better), self._tested(worse))

    def outcome(self, trial: TrialResult, seed: int) -> dict[str, Any]:
        """All that one run of a trial has left: values, costs, curves by stage."""
        found = self.folder.outcome(trial.number, seed)
        assert found
        return found

    def test_files(self, trial: TrialResult) -> list[Path]:
        """The predictions for the test rows, by seed."""
        found = self.folder.test(trial.number)
        return [Path(file) for file in found["files"]] if found else []

    def _tested(self, trial: TrialResult) -> TrialResult:
        """The trial with its predictions for the test rows in place of those for the validation rows."""
        files = self.test_files(trial)
        seeds = [replace(seed, held_out=str(file)) for seed, file in zip(trial.seeds, files, strict=True)]
        return replace(trial, seeds=seeds)


def write(study: Study, result: Result) -> Path:
    """Write the page of a study, and its figures as JSON; returns the page's path."""
    path = study.home / FOLDER / f"{study.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    html = page.render_study(
        title=result.title, question=result.question, answer=result.answer, sections=result.sections,
        commands=result.commands,
    )  # fmt: skip
    write_atomically(path, html)
    write_atomically(path.with_suffix(".json"), json.dumps(result.data, indent=1))
    return path


def write_markdown(result: Result, name: str, folder: Path) -> Path:
    """Write a study as a page of documentation, with its pictures in `images/`; returns the page's path."""
    text, pictures = page.study_markdown(
        title=result.title, question=result.question, answer=result.answer, sections=result.sections,
        commands=result.commands,
    )  # fmt: skip
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for file, svg in pictures.items():
        write_atomically(images / file, svg)
        text = text.replace(f"]({file})", f"](images/{file})")
    path = folder / f"{name}.md"
    write_atomically(path, text)
    return path


def _distinct(values: Sequence[Any]) -> list[Any]:
    """The values, each once, in order; mappings and lists too."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def with_interval(estimate: Mapping[str, float] | Estimate, *, sign: bool = False) -> str:
    """A value with its interval, for a sentence."""
    from pretune.pages.units import interval

    one = (
        estimate
        if isinstance(estimate, Mapping)
        else {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    )
    return interval(one["value"], one["low"], one["high"], sign=sign)
