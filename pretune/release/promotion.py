"""Promotion: a model becomes the challenger, and the champion if it passes the gate; and rollback."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.config.params import load
from pretune.errors import NotFoundInRecordsError
from pretune.lineage.graph import Workspace, state_dir
from pretune.lineage.provenance import LEFT_OUT
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

FORMER = "pretune.former_champion"  # tag of a version: the version that it replaced
EVALUATION = "pretune.evaluation"  # tag of a version: the run of its evaluation
APPROVAL = "pretune.approval"  # tag of a version: when somebody agreed or refused, and why
OUTPUTS = ("data/raw", "data/prepared/", "models/", "reports/")  # paths that stages write


@dataclass(frozen=True)
class Verdict:
    """The result of a promotion.

    former: the version that was champion before; held: it still is, until somebody agrees.
    """

    name: str
    version: str
    checks: list[Check]
    former: str | None
    held: bool = False

    @property
    def passed(self) -> bool:
        """Whether the model passed the gate: unless it is held, it is the champion now."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        """Every check of the gate, and the outcome."""
        former = f" (before: version {self.former})" if self.former not in {None, self.version} else ""
        outcome = f"is @champion now{former}" if self.passed else "is @challenger; the champion stays"
        if self.passed and self.held:
            outcome = "is @challenger and waits for approval; the champion stays until then"
        return "\n".join([*map(str, self.checks), f"version {self.version} of {self.name} {outcome}"])


def promote(
    runs: Runs, params: Params, name: str | None, missing: Callable[[Evaluation], list[str]], *, hold: bool = False
) -> Verdict:
    """Register the model of an evaluation (default: the newest) as challenger; make it champion if it passes the gate.

    missing: a function that lists which data of an evaluation the remote lacks. hold: leave the champion as it is; a
    second call, against whatever is champion by then, makes the change. The reasons are stored with the version in any
    case.
    """
    registry = runs.registry
    evaluation = runs.evaluation(name) if name else runs.newest()
    if evaluation.model is None:
        raise NotFoundInRecordsError(
            f"no model of {evaluation.name} is in MLflow", "pretune run   (with MLflow answering)"
        )
    model_id, run = evaluation.model
    with registry.lock():
        version = registry.register(model_id, run.run_id)
        registry.set_alias(CHALLENGER, version)
        champion = registry.alias(CHAMPION)
        rival = champion if champion and champion.version != version.version else None
        stored = runs.predictions(evaluation)
        predictions = stored.evaluated
        comparison = _compare_with(rival, runs, params, evaluation.name, stored) if rival else None
        gaps = lineage_gaps(runs, evaluation) + missing(evaluation)
        checks = gate.examine(
            evaluation.evaluated, predictions, evaluation.run.metrics, params.gate, champion=comparison, gaps=gaps
        )
        held = hold and (rival is not None or champion is None)
        verdict = Verdict(registry.name, version.version, checks, champion.version if champion else None, held)
        _store(runs, evaluation, predictions, version, verdict)
        if verdict.passed and not held and (rival or not champion):
            registry.annotate(version, {FORMER: rival.version if rival else ""})
            registry.set_alias(CHAMPION, version)
    return verdict


def decide(root: Path, run: str | None, *, hold: bool = False) -> Verdict:
    """Promote the model of a run (default: the newest) by the gate of the workspace; see `promote`."""
    settings = load(root / "params.yaml")
    workspace = Workspace(root)

    def missing(evaluation: Evaluation) -> list[str]:
        paths = {md5: path for record in evaluation.stages.values() for path, md5 in record.outputs.items()}
        return [f"the remote lacks {paths[md5]}" for md5 in workspace.missing_from_remote(list(paths))]

    return promote(Runs(root, state_dir(root), settings.gate.name), settings, run, missing, hold=hold)


def note(root: Path, verdict: Verdict, answer: str) -> None:
    """Store with the version of a promotion what somebody answered."""
    registry = Runs(root, state_dir(root), verdict.name).registry
    registry.annotate(registry.version(verdict.version), {APPROVAL: f"{_now()} {answer}"})


def rollback(registry: Registry) -> tuple[str, str]:
    """Make the former champion the champion again; (version before, version now)."""
    with registry.lock():
        champion = registry.alias(CHAMPION)
        former = champion.tags.get(FORMER, "") if champion else ""
        if champion is None or not former:
            problem = (
                f"version {champion.version} of {registry.name} replaced none" if champion else "there is no champion"
            )
            raise NotFoundInRecordsError(problem, "pretune promote")
        version = registry.version(former)
        registry.annotate(champion, {"pretune.rolled_back": _now()})
        registry.set_alias(CHAMPION, version)
    return champion.version, former


def lineage_gaps(runs: Runs, evaluation: Evaluation) -> list[str]:
    """What the records lack of the lineage of a model."""
    gaps = []
    known = {path for record in evaluation.stages.values() for path in record.outputs}
    for stage, record in evaluation.stages.items():
        if record.tags.get("git.commit", "none") == "none":
            gaps.append(f"{stage}: no commit")
        elif record.tags.get("git.dirty") == "true" and not _is_patch_complete(runs, record):
            gaps.append(f"{stage}: its patch does not contain all uncommitted changes")
        unknown = [path for path in record.inputs if path.startswith(OUTPUTS) and path not in known]
        gaps += [f"{stage}: no run that wrote {path} is on record" for path in unknown]
    return gaps


def _is_patch_complete(runs: Runs, record: Record) -> bool:
    try:
        return not any(line.startswith(LEFT_OUT) for line in runs.artifact(record, "changes.patch").splitlines())
    except NotFoundInRecordsError:
        return False


def _compare_with(
    champion: Version, runs: Runs, params: Params, name: str, predictions: StoredPredictions
) -> Comparison:
    """The challenger, an evaluation of this name, against the champion."""
    evaluation = runs.evaluation(champion.tags.get(EVALUATION) or champion.run_id)
    return compare(
        {"champion": runs.predictions(evaluation), name: predictions},
        bootstrap_samples=params.evaluate.bootstrap_samples,
        confidence=params.evaluate.confidence,
        seed=params.seed,
    )


def _store(runs: Runs, evaluation: Evaluation, predictions: Predictions, version: Version, verdict: Verdict) -> None:
    """Store the reasons and the model card with the version; the run gets the card in full length."""
    slices = runs.artifact(evaluation.run, "evaluation/slices.csv")
    card = model_card.write(evaluation, predictions, verdict.checks, version=version.version, slices=slices)
    tags = {
        "gate.passed": str(verdict.passed).lower(),
        "gate.reasons": "\n".join(map(str, verdict.checks)),
        "gate.time": _now(),
        EVALUATION: evaluation.run.run_id,
    }
    runs.registry.annotate(version, tags, card)
    runs.attach(evaluation.run, "model-card.md", card)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
