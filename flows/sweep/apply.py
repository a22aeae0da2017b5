"""What becomes of a trial: values in params.yaml, or an experiment of DVC."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from flows.sweep.folder import SweepFolder
from pretune.config import overrides
from pretune.errors import NotFoundInRecordsError
from pretune.lineage import experiments
from pretune.studies.results import TrialResult


def chosen(folder: SweepFolder, number: int | None) -> TrialResult:
    """The complete trial of this number, or the best one; NotFoundInRecordsError if there is none."""
    ranked = folder.judge.best(folder.trials())
    found = [trial for trial in ranked if number is None or trial.number == number]
    if not found:
        what = "no trial is complete" if number is None else f"no complete trial {number}"
        raise NotFoundInRecordsError(f"{what} in the sweep {folder.name}", f"pretune sweep show {folder.name}")
    return found[0]


def write_params(folder: SweepFolder, number: int | None) -> dict[str, tuple[Any, Any]]:
    """Write the values of a trial into the workspace's params.yaml; returns {key: (old, new)} of what changed."""
    path = folder.home / "params.yaml"
    return overrides.override(path, folder.assignments(chosen(folder, number).point, 0), path)


def keep_as_experiment(folder: SweepFolder, number: int | None) -> str:
    """Make an experiment of DVC of a trial's first run; returns its name."""
    trial = chosen(folder, number)
    outcome = folder.outcome(trial.number, 0) or {}
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "params.yaml"
        overrides.override(folder.params_file, folder.assignments(trial.point, 0), target)
        params = target.read_text(encoding="utf-8")
    name = f"{folder.name}-{trial.number}"
    experiments.keep(folder.home, name, params, outcome["lock"])
    return name
