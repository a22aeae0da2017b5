"""From what a user names (a run, an alias, a git revision) to an evaluation on record and all that led to it."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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

EVALUATE, REPORT = "evaluate", "reports/metrics.json"


@dataclass(frozen=True)
class Evaluation:
    """name: what the user wrote; run: the one that executed `evaluate`; stages: all that led to it, by stage."""

    name: str
    run: Record
    stages: dict[str, Record]

    @property
    def params(self) -> dict[str, str]:
        """Every setting that had a part in it."""
        return {key: value for record in self.stages.values() for key, value in record.params.items()}

    @property
    def data(self) -> dict[str, str]:
        """{path: md5} of all that was read and made on the way, models aside."""
        read = {path: md5 for record in self.stages.values() for path, md5 in record.inputs.items()}
        return {path: md5 for path, md5 in read.items() if not path.startswith(("models/", "reports/"))}

    @property
    def model(self) -> tuple[str, Record] | None:
        """The id of MLflow's model, and the run that made it."""
        made = self.stages.get("finetune")
        return (made.models[-1], made) if made and made.models else None


class Runs:
    """What a workspace has on record, the artifacts, and the registry of the model `name`."""

    def __init__(self, root: Path, state: Path, name: str) -> None:
        self.root, self.state, self.name = root, state, name
        self.records = Records(root, state)

    @cached_property
    def client(self) -> Any:
        """MLflow's own, which takes seconds to import."""
        return open_client(self.root, self.state)

    @cached_property
    def registry(self) -> Registry:
        """The versions of the model."""
        return Registry(self.client, self.name)

    def artifact(self, run: Record, name: str) -> str:
        """The text of a run's artifact; NotFoundInRecordsError where MLflow does not have it."""
        try:
            if folder := _folder(run):
                return (folder / name).read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as fetched:
                return Path(self.client.download_artifacts(run.run_id, name, fetched)).read_text(encoding="utf-8")
        except Exception as error:  # whatever a server or a disk does
            raise NotFoundInRecordsError(f"run {run.run_id} has no {name}", f"pretune run {run.name}") from error

    def tag(self, run: Record, tags: dict[str, str]) -> None:
        """Add facts to a run that has ended."""
        for key, value in tags.items():
            self.client.set_tag(run.run_id, key, value)

    def attach(self, run: Record, name: str, text: str) -> None:
        """Keep a text as an artifact of a run."""
        if folder := _folder(run):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        else:
            self.client.log_text(run.run_id, text, name)

    def predictions(self, found: Evaluation) -> StoredPredictions:
        """What every model of an evaluation said about the test rows."""
        return predictions_io.loads(self.artifact(found.run, "evaluation/predictions.json"))

    def model(self, name: str) -> str:
        """The id of the model that `@alias`, a run or an evaluation stands for."""
        if name.startswith("@"):
            return self.registry.named(name[1:]).model_id
        made = self.run(name)
        if made and made.models:
            return made.models[-1]
        found = self.evaluation(name).model
        if found is None:
            raise NotFoundInRecordsError(f"no model of {name} is in MLflow", "pretune run")
        return found[0]

    def evaluation(self, name: str) -> Evaluation:
        """That of a run id, a model id, `@alias` or a git revision; NotFoundInRecordsError where there is none."""
        record = self.run(self.registry.named(name[1:]).run_id) if name.startswith("@") else self.run(name)
        found = self._evaluation_of(record) if record else self._of_revision(name)
        if found is None:
            what = f"run {name} ({record.name})" if record else f"`{name}`"
            known = ", ".join(f"{each.run_id[:SHORT]}" for each in self.records.newest(EVALUATE, 3)[::-1])
            raise NotFoundInRecordsError(
                f"no evaluation of {what} is on record" + (f"; the newest are {known}" if known else ""),
                "pretune run   (makes one; then name its run, @champion or a git revision that has its dvc.lock)",
            )
        return Evaluation(name, found, self._back(found))

    def newest(self) -> Evaluation:
        """The evaluation that was made last."""
        found = self.records.newest(EVALUATE)
        if not found:
            raise NotFoundInRecordsError("no evaluation is on record", "pretune run")
        return Evaluation(found[0].run_id, found[0], self._back(found[0]))

    def run(self, name: str) -> Record | None:
        """The run of this id (SHORT characters suffice) or journal, or that made the model of this id."""
        return self.records.starting(name)

    def _evaluation_of(self, record: Record) -> Record | None:
        if record.name == "pipeline":
            children = [each for each in self.records.children(record) if each.name == EVALUATE]
            return self._evaluation_of(children[-1]) if children else None
        executed = self.records.executed(record)
        if executed.name == EVALUATE:
            return executed if executed.executed and executed.status == "FINISHED" else None
        found = [self.records.users(*made, stage=EVALUATE, most=1).records for made in executed.outputs.items()]
        return max(itertools.chain(*found), key=lambda each: each.started, default=None)

    def _of_revision(self, revision: str) -> Record | None:
        command = ["git", "show", f"{revision}:dvc.lock", "--"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode or revision.startswith("-"):
            return None
        stages = (YAML(typ="safe", pure=True).load(done.stdout) or {}).get("stages", {})
        outs = {out["path"]: out["md5"] for out in stages.get(EVALUATE, {}).get("outs", [])}
        return self.records.maker(REPORT, outs[REPORT]) if REPORT in outs else None

    def _back(self, record: Record) -> dict[str, Record]:
        """The run and all that made what it read, in the order of the pipeline."""
        found: dict[str, Record] = {}
        for path, md5 in record.inputs.items():
            if maker := self.records.maker(path, md5):
                found = {**self._back(maker), **found}
        return {**found, record.name: record}


def _folder(run: Record) -> Path | None:
    """Where the artifacts lie, if that is on this machine: they are read without MLflow, which takes seconds."""
    place = urlsplit(run.artifacts)
    return Path(unquote(place.path)) if place.scheme == "file" else None
