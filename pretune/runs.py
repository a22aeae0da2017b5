"""From what a user names (a run, an alias, a git revision) to an evaluation on record and all that led to it."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from pretune.errors import NotFoundInRecordsError
from pretune.evaluation import stored
from pretune.evaluation.stored import Stored
from pretune.registry import Registry
from pretune.tracking import Record, connect, records

EVALUATE, REPORT, MODEL = "evaluate", "reports/metrics.json", "models/finetuned"
SHORT = 8  # characters of a run id that suffice


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
    """All records of a workspace, their artifacts, and the registry of the model `name`."""

    def __init__(self, root: Path, state: Path, name: str) -> None:
        self.root = root
        self.records = records(root, state)
        self.client, _ = connect(root, state)
        self.registry = Registry(self.client, name)
        self.done = [each for each in self.records if each.executed and each.status == "FINISHED"]
        self.by_id = {each.run_id: each for each in self.records}

    def artifact(self, run: Record, name: str) -> str:
        """The text of a run's artifact; NotFoundInRecordsError where MLflow does not have it."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.client.download_artifacts(run.run_id, name, folder)).read_text(encoding="utf-8")
            except Exception as error:  # whatever a server or a disk does
                raise NotFoundInRecordsError(f"run {run.run_id} has no {name}", f"pretune run {run.name}") from error

    def tag(self, run: Record, tags: dict[str, str]) -> None:
        """Add facts to a run that has ended."""
        for key, value in tags.items():
            self.client.set_tag(run.run_id, key, value)

    def executed(self, run: Record) -> Record:
        """The run itself, or the one whose result it found in the cache."""
        return self.by_id.get(run.tags.get("pretune.source_run", ""), run)

    def attach(self, run: Record, name: str, text: str) -> None:
        """Keep a text as an artifact of a run."""
        self.client.log_text(run.run_id, text, name)

    def predictions(self, found: Evaluation) -> Stored:
        """What every model of an evaluation said about the test rows."""
        return stored.loads(self.artifact(found.run, "evaluation/predictions.json"))

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
            known = ", ".join(f"{each.run_id[:SHORT]}" for each in self._evaluations()[-3:])
            raise NotFoundInRecordsError(
                f"no evaluation of {what} is on record" + (f"; the newest are {known}" if known else ""),
                "pretune run   (makes one; then name its run, @champion or a git revision that has its dvc.lock)",
            )
        return Evaluation(name, found, self._back(found))

    def newest(self) -> Evaluation:
        """The evaluation that was made last."""
        found = self._evaluations()
        if not found:
            raise NotFoundInRecordsError("no evaluation is on record", "pretune run")
        return Evaluation(found[-1].run_id, found[-1], self._back(found[-1]))

    def run(self, name: str) -> Record | None:
        """The run of this id (SHORT characters suffice) or journal, or that made the model of this id."""
        for record in self.records:
            ids = (record.run_id, record.tags.get("pretune.id", ""), *record.models)
            if len(name) >= SHORT and any(each.startswith(name) for each in ids):
                return record
        return None

    def maker(self, path: str, md5: str) -> Record | None:
        """The last run that wrote these bytes there."""
        makers = [each for each in self.done if each.outputs.get(path) == md5]
        return makers[-1] if makers else None

    def _evaluations(self) -> list[Record]:
        return [each for each in self.done if each.name == EVALUATE]

    def _evaluation_of(self, record: Record) -> Record | None:
        if record.name == "pipeline":
            children = [each for each in self.records if each.parent == record.run_id and each.name == EVALUATE]
            return self._evaluation_of(children[-1]) if children else None
        executed = self.executed(record)
        if executed.name == EVALUATE:
            return executed if executed.executed and executed.status == "FINISHED" else None
        made = executed.outputs.items()
        users = [each for each in self._evaluations() if made & each.inputs.items()]
        return users[-1] if users else None

    def _of_revision(self, revision: str) -> Record | None:
        command = ["git", "show", f"{revision}:dvc.lock", "--"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode or revision.startswith("-"):
            return None
        stages = (YAML(typ="safe", pure=True).load(done.stdout) or {}).get("stages", {})
        outs = {out["path"]: out["md5"] for out in stages.get(EVALUATE, {}).get("outs", [])}
        return self.maker(REPORT, outs[REPORT]) if REPORT in outs else None

    def _back(self, record: Record) -> dict[str, Record]:
        """The run and all that made what it read, in the order of the pipeline."""
        found: dict[str, Record] = {}
        for path, md5 in record.inputs.items():
            if maker := self.maker(path, md5):
                found = {**self._back(maker), **found}
        return {**found, record.name: record}
