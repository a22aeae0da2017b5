"""Promotion: a model becomes the challenger, and the champion if the gate lets it pass. And the way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.config.params import load
from pretune.errors import NotFoundInRecordsError
from pretune.lineage.graph import Workspace, state_dir
from pretune.objectives.predictions_io import StoredPredictions
from pretune.release import gate, model_card
from pretune.release.compare import Comparison, compare
from pretune.release.gate import Check
from pretune.release.registry import CHALLENGER, CHAMPION, Registry, Version
from pretune.release.runs import Evaluation, Runs
from pretune.tracking.record import Record

if TYPE_CHECKING:
    from pretune.config.params import Params
    from pretune.objectives.predictions import Predictions

FORMER = "pretune.former_champion"  # on a version: which one it replaced
EVALUATION = "pretune.evaluation"  # on a version: the run that measured it
MADE = ("data/raw", "data/prepared/", "models/", "reports/")  # what stages make of the user's data
LEFT_OUT = "# left out"  # in a patch: a file that it does not hold


@dataclass(frozen=True)
class Verdict:
    """What became of a model that was to be promoted."""

    name: str
    version: str
    checks: list[Check]
    former: str | None

    @property
    def passed(self) -> bool:
        """Whether it is the champion now."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        """Every check of the gate, and the outcome."""
        former = f" (before: version {self.former})" if self.former not in {None, self.version} else ""
        outcome = f"is @champion now{former}" if self.passed else "is @challenger; the champion stays"
        return "\n".join([*map(str, self.checks), f"version {self.version} of {self.name} {outcome}"])


def promote(runs: Runs, params: Params, name: str | None, missing: Callable[[Evaluation], list[str]]) -> Verdict:
    """Register the model of an evaluation (default: the newest), and make it champion if it passes.

    `missing` says what the remote lacks of an evaluation's data. The reasons are stored with the version either way.
    """
    registry = runs.registry
    found = runs.evaluation(name) if name else runs.newest()
    if found.model is None:
        raise NotFoundInRecordsError(f"no model of {found.name} is in MLflow", "pretune run   (with MLflow answering)")
    model_id, made = found.model
    with registry.alone():
        version = registry.register(model_id, made.run_id)
        registry.give(CHALLENGER, version)
        champion = registry.alias(CHAMPION)
        other = champion if champion and champion.version != version.version else None
        own = runs.predictions(found)
        rival = _compared(runs, params, other, found.name, own) if other else None
        gaps = lineage_gaps(runs, found) + missing(found)
        checks = gate.examine(own.models["finetuned"], found.run.metrics, params.gate, champion=rival, gaps=gaps)
        verdict = Verdict(registry.name, version.version, checks, champion.version if champion else None)
        _note(runs, found, own.models["finetuned"], version, verdict)
        if verdict.passed and (other or not champion):
            registry.note(version, {FORMER: other.version if other else ""})
            registry.give(CHAMPION, version)
    return verdict


def decide(root: Path, run: str | None) -> Verdict:
    """Promote a run's model (default: the newest) as the workspace's gate says."""
    settings = load(root / "params.yaml")
    workspace = Workspace(root)

    def missing(found: Evaluation) -> list[str]:
        made = {md5: path for record in found.stages.values() for path, md5 in record.outputs.items()}
        return [f"the remote lacks {made[md5]}" for md5 in workspace.missing_from_remote(list(made))]

    return promote(Runs(root, state_dir(root), settings.gate.name), settings, run, missing)


def rollback(registry: Registry) -> tuple[str, str]:
    """Make the former champion champion again; (version that was, version that is)."""
    with registry.alone():
        champion = registry.alias(CHAMPION)
        former = champion.tags.get(FORMER, "") if champion else ""
        if champion is None or not former:
            what = (
                f"version {champion.version} of {registry.name} replaced none" if champion else "there is no champion"
            )
            raise NotFoundInRecordsError(what, "pretune promote")
        again = registry.version(former)
        registry.note(champion, {"pretune.rolled_back": _now()})
        registry.give(CHAMPION, again)
    return champion.version, former


def lineage_gaps(runs: Runs, found: Evaluation) -> list[str]:
    """What is not on record of all that led to a model."""
    gaps = []
    made = {path for each in found.stages.values() for path in each.outputs}
    for stage, record in found.stages.items():
        if record.tags.get("git.commit", "none") == "none":
            gaps.append(f"{stage}: no commit")
        elif record.tags.get("git.dirty") == "true" and not _is_whole(runs, record):
            gaps.append(f"{stage}: uncommitted changes that no patch holds in full")
        unknown = [path for path in record.inputs if path.startswith(MADE) and path not in made]
        gaps += [f"{stage}: who made {path} is not known" for path in unknown]
    return gaps


def _is_whole(runs: Runs, record: Record) -> bool:
    try:
        return not any(line.startswith(LEFT_OUT) for line in runs.artifact(record, "changes.patch").splitlines())
    except NotFoundInRecordsError:
        return False


def _compared(runs: Runs, params: Params, champion: Version, name: str, own: StoredPredictions) -> Comparison:
    """The challenger beside the champion."""
    former = runs.evaluation(champion.tags.get(EVALUATION) or champion.run_id)
    settings = params.evaluate
    both = {"champion": runs.predictions(former), name: own}
    samples, confidence = settings.bootstrap_samples, settings.confidence
    return compare(both, bootstrap_samples=samples, confidence=confidence, seed=params.seed)


def _note(runs: Runs, found: Evaluation, said: Predictions, version: Version, verdict: Verdict) -> None:
    """Store the reasons and the model card with the version, and the card with the run too, whole."""
    slices = runs.artifact(found.run, "evaluation/slices.csv")
    text = model_card.write(found, said, verdict.checks, version=version.version, slices=slices)
    passed = str(verdict.passed).lower()
    reasons = "\n".join(map(str, verdict.checks))
    tags = {"gate.passed": passed, "gate.reasons": reasons, "gate.time": _now(), EVALUATION: found.run.run_id}
    runs.registry.note(version, tags, text)
    runs.attach(found.run, "model-card.md", text)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
