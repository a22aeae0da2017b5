"""Finds the evaluation, and the runs that led to it, by what a user names: a run, an alias or a git revision."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ruamel.yaml import YAML

from pretune.errors import NotFoundInRecordsError
from pretune.objectives import predictions_io
from pretune.objectives.predictions_io import StoredPredictions
from pretune.release.registry import Registry
from pretune.tracking.client import open_client
from pretune.tracking.record import Record
from pretune.tracking.records import SHORT, Records

WORKING_TREE = "."
EVALUATE, REPORT = "evaluate", "reports/metrics.json"


@dataclass(frozen=True)
class Evaluation:
    """name: what the user wrote; run: that of `evaluate`; stages: {stage: run} of all that led to it."""

    name: str
    run: Record
    stages: dict[str, Record]

    @property
    def params(self) -> dict[str, str]:
        """The parameters of all stages."""
        return {key: value for record in self.stages.values() for key, value in record.params.items()}

    @property
    def data(self) -> dict[str, str]:
        """{path: md5} of all inputs of stages but models and reports."""
        inputs = {path: md5 for record in self.stages.values() for path, md5 in record.inputs.items()}
        return {path: md5 for path, md5 in inputs.items() if not path.startswith(("models/", "reports/"))}

    @property
    def evaluated(self) -> str:
        """The name of the evaluated model: the one of the inputs that has metrics, and that no gain is over."""
        names = [PurePosixPath(path).name for path in self.run.inputs if path.startswith("models/")]
        measured = {key.partition(".")[0] for key in self.run.metrics}
        return next(
            (name for name in names if name in measured and f"gain.{name}" not in self.run.metrics), "finetuned"
        )

    @property
    def model(self) -> tuple[str, Record] | None:
        """The id of the evaluated model in MLflow, and the run that trained it."""
        path = f"models/{self.evaluated}"
        run = next((record for record in self.stages.values() if path in record.outputs), None)
        return (run.models[-1], run) if run and run.models else None


class Runs:
    """The records of a workspace, their artifacts, and the registry of the model `name`."""

    def __init__(self, root: Path, state: Path, name: str) -> None:
        self.root, self.state, self.name = root, state, name
        self.records = Records(root, state)

    @cached_property
    def client(self) -> Any:
        """MLflow's client, which takes seconds to import."""
        return open_client(self.root, self.state)

    @cached_property
    def registry(self) -> Registry:
        """The versions of the model."""
        return Registry(self.client, self.name)

    def artifact(self, run: Record, name: str) -> str:
        """The text of a run's artifact; NotFoundInRecordsError if MLflow does not have it."""
        try:
            if folder := _folder(run):
                return (folder / name).read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as target:
                return Path(self.client.download_artifacts(run.run_id, name, target)).read_text(encoding="utf-8")
        except Exception as error:  # any failure of a server or a disk
            raise NotFoundInRecordsError(f"run {run.run_id} has no {name}", f"pretune run {run.name}") from error

    def tag(self, run: Record, tags: dict[str, str]) -> None:
        """Set tags of a run that has ended."""
        for key, value in tags.items():
            self.client.set_tag(run.run_id, key, value)

    def attach(self, run: Record, name: str, text: str) -> None:
        """Store a text as an artifact of a run."""
        if folder := _folder(run):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        else:
            self.client.log_text(run.run_id, text, name)

    def predictions(self, evaluation: Evaluation) -> StoredPredictions:
        """The predictions of all models of an evaluation for its test rows."""
        return predictions_io.loads(self.artifact(evaluation.run, "evaluation/predictions.json"))

    def model(self, name: str) -> str:
        """The id of the model of an `@alias`, a run or an evaluation."""
        if name.startswith("@"):
            return self.registry.find(name[1:]).model_id
        run = self.run(name)
        if run and run.models:
            return run.models[-1]
        model = self.evaluation(name).model
        if model is None:
            raise NotFoundInRecordsError(f"no model of {name} is in MLflow", "pretune run")
        return model[0]

    def evaluation(self, name: str) -> Evaluation:
        """The evaluation of a run, a model, an `@alias`, a git revision or `.`; NotFoundInRecordsError without one."""
        record = self.run(self.registry.find(name[1:]).run_id) if name.startswith("@") else self.run(name)
        run = self._evaluation_of(record) if record else self._of_revision(name)
        if run is None:
            subject = f"run {name} ({record.name})" if record else f"`{name}`"
            newest = ", ".join(f"{evaluation.run_id[:SHORT]}" for evaluation in self.records.newest(EVALUATE, 3)[::-1])
            raise NotFoundInRecordsError(
                f"no evaluation of {subject} is on record" + (f"; the newest are {newest}" if newest else ""),
                "pretune run   (makes one; then name its run, @champion or a git revision that has its dvc.lock)",
            )
        return Evaluation(name, run, self._lineage(run))

    def newest(self) -> Evaluation:
        """The newest evaluation."""
        records = self.records.newest(EVALUATE)
        if not records:
            raise NotFoundInRecordsError("no evaluation is on record", "pretune run")
        return Evaluation(records[0].run_id, records[0], self._lineage(records[0]))

    def run(self, name: str) -> Record | None:
        """The run of this id (its first SHORT characters suffice) or journal, or that trained the model of this id."""
        return self.records.starting(name)

    def _evaluation_of(self, record: Record) -> Record | None:
        """The newest run of `evaluate` that belongs to a pipeline run or used the outputs of a stage's run."""
        if record.is_pipeline:
            children = [child for child in self.records.children(record) if child.name == EVALUATE]
            return self._evaluation_of(children[-1]) if children else None
        executed = self.records.executed(record)
        if executed.name == EVALUATE:
            return executed if executed.executed and executed.status == "FINISHED" else None
        users = [self.records.users(*output, stage=EVALUATE, limit=1).records for output in executed.outputs.items()]
        return max(itertools.chain(*users), key=lambda user: user.started, default=None)

    def _of_revision(self, revision: str) -> Record | None:
        """The run of `evaluate` whose output the dvc.lock of a git revision names; `.` is the working tree."""
        text = self._lock_file(revision)
        stages = (YAML(typ="safe", pure=True).load(text) or {}).get("stages", {})
        outs = {out["path"]: out["md5"] for out in stages.get(EVALUATE, {}).get("outs", [])}
        return self.records.maker(REPORT, outs[REPORT]) if REPORT in outs else None

    def _lock_file(self, revision: str) -> str:
        """Its text; empty if there is none."""
        if revision == WORKING_TREE:
            path = self.root / "dvc.lock"
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        command = ["git", "show", f"{revision}:dvc.lock", "--"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        return "" if done.returncode or revision.startswith("-") else done.stdout

    def _lineage(self, record: Record) -> dict[str, Record]:
        """{stage: run} of all that led to a run, itself included, in the order of the pipeline."""
        runs: dict[str, Record] = {}
        for path, md5 in record.inputs.items():
            if maker := self.records.maker(path, md5):
                runs = {**self._lineage(maker), **runs}
        return {**runs, record.name: record}


def _folder(run: Record) -> Path | None:
    """The folder of the artifacts if it is on this machine: reading it does not need MLflow, which takes seconds."""
    uri = urlsplit(run.artifacts)
    return Path(unquote(uri.path)) if uri.scheme == "file" else None
