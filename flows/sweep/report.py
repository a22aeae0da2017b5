"""A sweep as people look at it: sentences, a table, a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.sweep.folder import SweepFolder
from pretune.config import files
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.studies import page, verdict
from pretune.studies.results import TrialResult
from pretune.studies.search import Search

FOLDER = "reports/sweeps"


@dataclass(frozen=True)
class SweepView:
    """What a sweep has found. estimates: by trial; ranking: the numbers of the complete trials, the best first."""

    folder: SweepFolder
    metric: str
    trials: list[TrialResult]
    ranking: list[int]
    estimates: Mapping[int, Estimate]
    sentences: list[str]
    importance: Mapping[str, float]
    test: Mapping[str, Any] | None


def view(folder: SweepFolder, search: Search | None = None) -> SweepView:
    """Look at a sweep, also while it is running."""
    study = search or folder.search()
    trials, judge, metric = study.results(), folder.judge, folder.metric_name
    ranked = judge.best(trials)
    estimates = {trial.number: judge.estimate(trial) for trial in ranked}
    test = folder.test(ranked[0].number) if ranked else None
    named = judge.named(metric)
    objectives = verdict.Objectives(folder.settings.metrics, folder.higher, study.values())
    sentences = verdict.sentences(trials, named, test, objectives, only=folder.settings.tested == "best")
    return SweepView(
        folder, metric, trials, [trial.number for trial in ranked], estimates, sentences, study.importance(), test,
    )  # fmt: skip


def write(seen: SweepView) -> Path:
    """Write the page of a sweep; returns its path."""
    folder = seen.folder
    name = shlex.quote(folder.name)
    commands = {
        "this table": f"pretune sweep show {name}",
        "go on": f"pretune sweep resume {name}",
        "write the winner into params.yaml": f"pretune sweep apply {name}",
        "keep a trial as an experiment of DVC": f"pretune sweep apply {name} --trial N --experiment",
        "the runs in MLflow": "pretune ui",
        "the study in Optuna's own dashboard": f"optuna-dashboard {shlex.quote(folder.study_url)}",
    }
    html = page.render_sweep(
        name=folder.name, command=command(folder), metric=seen.metric, higher=folder.higher[0], trials=seen.trials,
        estimates=seen.estimates, sentences=seen.sentences, importance=seen.importance, commands=commands,
        test={seen.metric: seen.test["estimate"]} if seen.test else None,
    )  # fmt: skip
    path = folder.home / FOLDER / f"{folder.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, html)
    return path


def command(folder: SweepFolder) -> str:
    """The command that makes the same sweep again."""
    asked = folder.settings
    words = ["pretune", "sweep", *(f"{key}={_spec(value)}" for key, value in asked.space.items())]
    words += [word for constraint in asked.constraints for word in ("--constraint", constraint)]
    words += [word for metric in asked.metric for word in ("--metric", metric)]
    words += ["--sampler", asked.sampler, "--seeds", str(asked.seeds), "--name", asked.name]
    words += ["--pruner", asked.pruner] if asked.pruner != "none" else []
    words += ["--trials", str(asked.trials)] if asked.trials else []
    words += ["--search-seed", str(asked.search_seed)] if asked.search_seed else []
    return shlex.join(words)


def as_dict(seen: SweepView) -> dict[str, Any]:
    """What `--json` prints."""
    rank = {number: place for place, number in enumerate(seen.ranking, start=1)}
    trials = []
    for trial in seen.trials:
        estimate = seen.estimates.get(trial.number)
        trials.append({
            "number": trial.number, "rank": rank.get(trial.number), "state": trial.state, "point": trial.point,
            "estimate": estimate.as_dict() if estimate else None, "note": trial.note,
            "seeds": [asdict(seed) for seed in trial.seeds],
        })  # fmt: skip
    return {
        "sweep": seen.folder.name, "metric": seen.metric, "best": seen.ranking[0] if seen.ranking else None,
        "sentences": seen.sentences, "importance": dict(seen.importance), "test": seen.test, "trials": trials,
        "report": str(seen.folder.home / FOLDER / f"{seen.folder.name}.html"), "study": seen.folder.study_url,
    }  # fmt: skip


def _spec(value: Any) -> str:
    from pretune.studies.dimensions import written

    if isinstance(value, str):
        return value
    return ",".join(written(item) for item in value) if isinstance(value, list) else written(value)
